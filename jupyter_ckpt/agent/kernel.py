"""The kernel an agent looks after: its box, its record, its in-kernel part."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Any

from ..box import Box, NamespaceBox, OpenBox
from ..box.open import is_free
from ..errors import KernelNotFound, LaunchFailed, NotOurKernel
from ..procfs import ProcessId, command_name, descendants, is_stopped, rss_bytes, stat_fields
from ..protocol import PORT_NAMES, Job
from ..record import Record
from .activity import Mark
from .kernel_link import START_DEADLINE_S, KernelLink


@dataclass
class Kernel:
    """A living kernel. ``folder`` is its runtime folder on the host."""

    record: Record
    box: Box
    folder: Path
    saved_at: float | None = None
    """When that was, on the monotonic clock."""
    prove_next: bool = False
    """Whether the next save must read back every stored chunk it uses again."""

    @classmethod
    def attach(cls, record: Record, binary: Path, folder: Path) -> Kernel:
        """Take over the kernel that `record` tells of.

        Raises `KernelNotFound` when it has ended.
        """
        if not record.is_alive() or record.kernel is None or record.root is None:
            raise KernelNotFound(f"Kernel {record.kernel_id} has ended.",
                                 "'jupyter ckpt list' shows what can be restored.")
        box: Box
        if record.init is not None:
            box = NamespaceBox(binary, folder, record.mode, record.init)
        elif record.mode == "caps":
            box = OpenBox(binary, folder, record.alias or open_alias(record.kernel_id),
                          record.root)
        else:
            raise NotOurKernel(f"Kernel {record.kernel_id} does not run in a box.")
        return cls(record, box, folder)

    @cached_property
    def link(self) -> KernelLink:
        return KernelLink(self.folder, self._note_heard, self.is_stopped)

    def is_stopped(self) -> bool:
        """Tell whether the kernel process is stopped (SIGSTOP): it answers nobody."""
        return self.record.kernel is not None and is_stopped(self.record.kernel.pid)

    def _note_heard(self) -> None:
        """Note that the in-kernel part lives; written with whatever the record tells next."""
        self.record.link_seen = True

    @property
    def mark(self) -> Mark | None:
        """How far it was when it was last saved or restored; None: not known.

        Kept in the record, or an idle kernel would be saved once more by each new agent.
        """
        return Mark.from_dict(self.record.mark)

    @mark.setter
    def mark(self, mark: Mark | None) -> None:
        self.record.mark = mark.to_dict() if mark is not None else None

    def distrust(self) -> None:
        """Have the next save prove what it shares with earlier ones, and come soon.

        Stored bytes were found damaged: the session's memory may be all that is
        left of them, and every checkpoint that shares them is bad.
        """
        self.prove_next = True
        self.mark = None

    @property
    def root_inner_pid(self) -> int:
        return self.record.root_inner_pid

    def connection(self) -> dict[str, Any] | None:
        """Return the ports and the key its connection file tells; None: missing or malformed."""
        try:
            found = json.loads(Path(self.record.connection_file).read_bytes())
        except (OSError, ValueError):
            return None
        if isinstance(found, dict) and all(type(found.get(n, 0)) is int for n in PORT_NAMES):
            return found
        return None

    def processes(self) -> list[dict[str, Any]]:
        """List the tree without its dump root: {pid, ppid, name, rss_bytes} each.

        Pids are those of the box, as the kernel's own code sees them.
        """
        root = self.record.root
        found = []
        for pid in descendants(root.pid)[1:] if root is not None and root.is_alive() else ():
            inner, fields = self.box.inner_pid(pid), stat_fields(pid)
            if inner is None or fields is None:
                continue
            parent = self.box.inner_pid(int(fields[1])) or 0
            found.append({"pid": inner, "ppid": parent, "name": command_name(pid),
                          "rss_bytes": rss_bytes(pid)})
        return found

    def working_folders(self) -> dict[str, int]:
        """Return the working directories of the tree: {path: permissions}."""
        root = self.record.root
        found = {}
        for pid in descendants(root.pid) if root is not None else ():
            try:
                path = os.readlink(f"/proc/{pid}/cwd")
                found[path] = stat.S_IMODE(os.stat(f"/proc/{pid}/cwd").st_mode)
            except OSError:
                continue
        return {path: mode for path, mode in found.items() if not path.endswith(" (deleted)")}

    def interrupt(self) -> None:
        """Interrupt the kernel and what it runs in the foreground (SIGINT)."""
        assert self.record.kernel is not None
        if self.record.kernel.is_alive():
            os.killpg(os.getpgid(self.record.kernel.pid), signal.SIGINT)

    def signal(self, number: int) -> None:
        """Send a signal to the kernel process alone."""
        assert self.record.kernel is not None
        if self.record.kernel.is_alive():
            os.kill(self.record.kernel.pid, number)


def open_alias(kernel_id: str) -> str:
    """Return the short path that stands for a kernel's runtime folder in caps mode."""
    return f"/tmp/.jupyter_ckpt-{os.getuid()}-{kernel_id[:12]}"


def free_alias(folder: Path) -> str:
    """Return such a path for a new kernel: `open_alias` unless a living copy of an
    earlier life of it has that.
    """
    first = open_alias(folder.name)
    names = chain([first], (f"{first}-{number}" for number in count(1)))
    return next(name for name in names if is_free(name, folder))


def identify(box: Box, record: Record, root_inner: int, kernel_inner: int) -> None:
    """Write into `record` who is who in `box`; raise `LaunchFailed` if gone."""
    root, kernel = box.host_pid(root_inner), box.host_pid(kernel_inner)
    record.init = box.init
    record.alias = box.alias if isinstance(box, OpenBox) else None
    record.root = ProcessId.of(root) if root is not None else None
    record.kernel = ProcessId.of(kernel) if kernel is not None else None
    record.root_inner_pid, record.kernel_inner_pid = root_inner, kernel_inner
    if record.root is None or record.kernel is None:
        raise LaunchFailed("The kernel's process ended at once.")


def wait_for_start(kernel: Kernel, job: Job) -> None:
    """Wait for the in-kernel part of a kernel that has only just been started."""
    record = kernel.record
    assert record.kernel is not None
    while (record.injected and record.kernel.age_s() < START_DEADLINE_S
           and record.kernel.is_alive() and not kernel.is_stopped()
           and not job.finished and not kernel.link.is_up()):
        job.phase = "waiting for the kernel to start"
        time.sleep(0.02)
