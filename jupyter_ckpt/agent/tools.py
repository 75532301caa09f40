"""What an agent works with: criu, the box program, the shim, the store, folders."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..box import Box
from ..engine.criu import Criu
from ..engine.criu_find import CriuBinary, find_criu
from ..errors import (
    CriuMissing,
    KernelNotFound,
    ModeUnavailable,
    StoreUnusable,
    UsageError,
)
from ..lasting import lasting_path
from ..native_build import NativeMissing, native_path
from ..privileges import decide_mode
from ..procfs import ProcessId
from ..store import Store
from ..store.locks import EXCLUSIVE, SHARED, LockFile

log = logging.getLogger(__name__)
_REMOVAL = "removal"
LOCK = "lock"
"""In every work folder: locked while somebody works there."""
_OWNER = re.compile(r"(\d+)-(\d+)[-+]")
"""How a work folder's name begins: with the pid and start time of whoever made it."""
REMOVAL_PAUSES_S = (0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 600.0)


@dataclass
class Tools:
    """Places and programs of one agent; everything costly is found when needed."""

    runtime_dir: Path
    store_dir: Path
    connection_dir: Path

    @cached_property
    def box_binary(self) -> Path:
        return lasting_path("ckpt-box")

    @cached_property
    def shim(self) -> Path:
        return lasting_path("boxshim.so")

    @cached_property
    def criu_shim(self) -> Path | None:
        try:
            return native_path("criushim.so")
        except NativeMissing:  # then a dump is what it was before there was one
            return None

    def storing_in(self, store: Any) -> Tools:
        """Return the tools of one act: a request may name another store (None: ours)."""
        if store is None:
            return self
        if not isinstance(store, str) or not os.path.isabs(store):
            raise UsageError("The store is named by an absolute path.")
        return replace(self, store_dir=Path(store))

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

        Raises `CriuMissing`, `StoreUnusable` where the box does not see `work`, and
        `KernelNotFound` where it has ended.
        """
        if not _is_visible(box, work):
            if box.init is not None and not box.init.is_alive():
                raise KernelNotFound("The kernel has ended.",
                                     "Restore its last checkpoint: 'jupyter ckpt list' shows it.")
            raise StoreUnusable(
                f"The session does not see the store {self.store_dir}: it lies on a file system "
                "mounted after the session began, or on one that every session has of its own.",
                "Choose another folder with --store, or restart the kernel.")
        notifier = work / "ckpt-notify"
        notifier.symlink_to(self.box_binary)
        return Criu(self.criu_binary().path, mode, notifier, shim=self.criu_shim)

    @contextmanager
    def work_folder(self, label: str, mark: str = "-") -> Iterator[Path]:
        """Give a private folder on the store's file system, removed afterwards.

        Its name holds `mark`: see `criu_mark` and `remains.restore_mark`.

        A lock in it is held for its life: it tells other agents, also those in
        other pid namespaces, that somebody works there. Raises `StoreUnusable`.

        The removal of gigabytes takes its time, and nobody has to wait for it:
        a thread does it, and what an agent's death leaves the next one removes.
        """
        top = self.store_dir / "work"
        own = ProcessId.of(os.getpid())
        assert own is not None
        prefix = f"{own.pid}-{own.start_time}{mark}{label[:16]}-"
        try:
            top.mkdir(mode=0o700, exist_ok=True)
            remove_abandoned(top)
            # Under the store's lock a folder never lacks its own, see `_is_abandoned`.
            with LockFile(self.store_dir / "lock") as store_lock, store_lock.held(SHARED):
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=top))
                lock = LockFile(folder / LOCK)
                lock.lock(EXCLUSIVE)
        except OSError as error:
            raise StoreUnusable(
                f"The store {self.store_dir} is not writable: {error.strerror}.",
                "Free or fix that folder, or choose another with --store.") from error
        try:
            yield folder
        finally:
            removal = threading.Thread(target=_end_work, args=(folder, lock), name=_REMOVAL,
                                       daemon=True)
            try:
                removal.start()
            except RuntimeError:  # no thread can be had: what was done stays done
                _end_work(folder, lock)


def criu_mark(kernel_id: str) -> str:
    """Return what the command lines hold of every criu that dumps this kernel."""
    return f"+{kernel_id}+criu+"  # no id holds a plus sign


def _end_work(folder: Path, lock: LockFile) -> None:
    with lock:
        remove_work(folder)


def remove_work(folder: Path, pauses_s: Sequence[float] = REMOVAL_PAUSES_S) -> bool:
    """Remove a work folder; tell whether it is gone.

    Tried again after each of `pauses_s`: a copy that hung while the tree stood
    still, and was given up, may write into it for some time yet.
    """
    for pause_s in (*pauses_s, 0.0):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return True
        time.sleep(pause_s)
    log.warning("the work folder %s cannot be removed", folder)
    return False


def remove_abandoned(top: Path) -> int:
    """Remove work folders of agents that are gone; return the bytes freed.

    Called by agents that begin to work, and by ``jupyter ckpt gc``.
    """
    freed = 0
    for folder in top.iterdir() if top.is_dir() else ():
        if _is_abandoned(folder):
            freed += _disk_bytes(folder)
            shutil.rmtree(folder, ignore_errors=True)
    return freed


def _is_abandoned(folder: Path) -> bool:
    """Tell whether nobody works in a folder: its lock is free.

    One without a lock is of an older version, or is being removed. Its name tells who
    made it, as far as that is to be known here: a pid means another process elsewhere.
    """
    owner = _OWNER.match(folder.name)
    if owner is None:
        return False
    with LockFile(folder.parent.parent / "lock") as store_lock, store_lock.held(EXCLUSIVE):
        if not (folder / LOCK).exists():
            return not ProcessId(int(owner[1]), int(owner[2])).is_alive()
        try:
            with LockFile(folder / LOCK) as lock:
                return lock.try_lock(EXCLUSIVE)
        except FileNotFoundError:
            return False  # its owner removed it at this moment


def _disk_bytes(folder: Path) -> int:
    found = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # somebody else removes it, too
                found += os.lstat(os.path.join(top, name)).st_blocks * 512
    return found


def finish_removals(timeout_s: float) -> None:
    """Wait until the folders of what ended are removed; called by an agent that ends."""
    deadline = time.monotonic() + timeout_s
    for thread in threading.enumerate():
        if thread.name == _REMOVAL:
            thread.join(max(0.0, deadline - time.monotonic()))


def _is_visible(box: Box, path: Path) -> bool:
    try:
        return os.path.samefile(path, box.path(str(path.resolve())))
    except OSError:
        return False
