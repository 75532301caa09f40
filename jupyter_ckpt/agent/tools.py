"""What an agent works with: criu, the box program, the shim, the store, folders."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..box import Box
from ..engine.criu import Criu
from ..engine.criu_find import CriuBinary, find_criu
from ..errors import CriuMissing, ModeUnavailable, StoreUnusable
from ..native_build import native_path
from ..privileges import decide_mode
from ..procfs import ProcessId
from ..store import Store


@dataclass
class Tools:
    """Places and programs of one agent; everything costly is found when needed."""

    runtime_dir: Path
    store_dir: Path
    connection_dir: Path

    @cached_property
    def box_binary(self) -> Path:
        return native_path("ckpt-box")

    @cached_property
    def shim(self) -> Path:
        return native_path("boxshim.so")

    def store(self) -> Store:
        return Store.open(self.store_dir)

    def criu_binary(self) -> CriuBinary:
        return find_criu()

    def mode(self) -> str:
        """Return the privilege mode for a new kernel.

        Raises `ModeUnavailable` when no process checkpoint is possible here.
        """
        try:
            binary = self.criu_binary()
        except CriuMissing:
            binary = None
        mode = decide_mode(binary)
        if mode.name == "none":
            raise ModeUnavailable(f"Process checkpoints are not possible here: {mode.why}",
                                  "'jupyter ckpt doctor' tells what to do.")
        return mode.name

    def criu(self, box: Box, mode: str, work: Path) -> Criu:
        """Return a CRIU for one act on `box` with its files in `work`.

        Raises `CriuMissing`, and `StoreUnusable` where the box does not see `work`.
        """
        if not _is_visible(box, work):
            raise StoreUnusable(
                f"The session does not see the store {self.store_dir}: it lies on a file system "
                "mounted after the session began, or on one that every session has of its own.",
                "Choose another folder with --store, or restart the kernel.")
        notifier = work / "ckpt-notify"
        notifier.symlink_to(self.box_binary)
        return Criu(self.criu_binary().path, mode, notifier)

    @contextmanager
    def work_folder(self, label: str) -> Iterator[Path]:
        """Give a private folder on the store's file system, removed afterwards.

        The removal of gigabytes takes its time, and nobody has to wait for it:
        a thread does it, and what an agent's death leaves the next one removes.
        """
        top = self.store_dir / "work"
        try:
            top.mkdir(mode=0o700, exist_ok=True)
            remove_abandoned(top)
            own = ProcessId.of(os.getpid())
            assert own is not None
            prefix = f"{own.pid}-{own.start_time}-{label[:16]}-"
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=top))
        except OSError as error:
            raise StoreUnusable(
                f"The store {self.store_dir} is not writable: {error.strerror}.",
                "Free or fix that folder, or choose another with --store.") from error
        try:
            yield folder
        finally:
            threading.Thread(target=shutil.rmtree, args=(folder, True), name="removal").start()


def remove_abandoned(top: Path) -> None:
    """Remove work folders of agents that are gone."""
    for folder in top.iterdir():
        pid, start_time = (*folder.name.split("-"), "")[:2]
        if (pid.isdigit() and start_time.isdigit()
                and not ProcessId(int(pid), int(start_time)).is_alive()):
            shutil.rmtree(folder, ignore_errors=True)


def _is_visible(box: Box, path: Path) -> bool:
    try:
        return os.path.samefile(path, box.path(str(path.resolve())))
    except OSError:
        return False
