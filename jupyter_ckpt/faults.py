"""Fault points: named places where a test makes a process die, hang or meet an error.

`point` does nothing at all unless the environment variable `VARIABLE` named a
plan when the process started. A plan is a folder: ``plan.json`` is a list of
faults, each fires once, and every process that reaches a point adds a line to
``trace``. It is read at every point, so a test can arm a fault in an agent or
a server that has been running for long; write it by rename.

A fault: ``{"point", "act", "program"?, "nth"?, "victim"?}``

- ``act``: ``kill`` and ``stop`` send SIGKILL or SIGSTOP, ``hang`` waits until
  the plan has no fault of that point any more, ``enospc``, ``eio`` and ``short`` are
  what a disk does (``short``: part of the bytes are written, then it is full);
- ``program``: only where the command line holds this text;
- ``nth``: at the nth time that a process comes by (default: the first);
- ``victim``: a pid, or the name of processes below this one, instead of this one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .procfs import command_name, descendants

VARIABLE = "JUPYTER_CKPT_FAULTS"
_HANG_POLL_S = 0.02

POINTS = {
    "launch.boxed": "a box for a new kernel is made and recorded",
    "launch.started": "the kernel's process runs, the record does not tell of it yet",
    "launch.recorded": "the record tells of the new kernel",
    "save.begun": "a save has begun, nothing was asked of the kernel",
    "save.quiesced": "the kernel is quiet, criu is not started yet",
    "save.frozen": "the tree stands still, all images are written",
    "save.copied": "the tree stands still, open files are copied",
    "save.dumped": "criu has ended and the tree runs, the kernel is not told yet",
    "save.thawed": "the kernel goes on, nothing is stored yet",
    "save.stored": "the checkpoint is visible, the record does not tell of it yet",
    "save.recorded": "record and store tell of the checkpoint, the caller does not know",
    "store.begun": "a transaction has its folder",
    "store.chunk": "before a new chunk is written",
    "store.write": "bytes go into a file of the store",
    "store.chunks-synced": "all new chunks are on the disk, none has its name",
    "store.chunk-named": "one more chunk has its name",
    "store.chunks-named": "all chunks have their names, on the disk",
    "store.manifest-written": "the signed manifest is on the disk, without its name",
    "store.manifest-named": "the manifest has its name: the commit point",
    "store.committed": "the name of the manifest is on the disk",
    "store.claimed": "chunks are claimed and looked up",
    "store.update-written": "a changed manifest is on the disk, without its name",
    "store.update-named": "a changed manifest has its name",
    "store.removed": "a manifest was removed",
    "gc.begun": "a collection has its lock",
    "gc.marked": "a collection knows what is needed",
    "gc.removed": "one more chunk was removed by a collection",
    "gc.ended": "a collection has removed all it will",
    "retention.removed": "one more old checkpoint was removed, its chunks are still there",
    "pressure.asked": "a save for want of memory is asked for, under its lock",
    "watch.started": "a server has started an agent for a kernel that had lost its own",
    "record.written": "a new record is on the disk, without its name",
    "record.named": "a new record has its name",
    "restore.begun": "a restore has begun, nothing was read",
    "restore.unpacked": "the images are unpacked and verified",
    "restore.saved": "the present state is saved and was read back",
    "restore.marked": "the record tells what to bring back should we die",
    "restore.stopped": "the old kernel is stopped",
    "restore.boxed": "an empty box is made and recorded",
    "restore.files-back": "the user's files are put back",
    "restore.edited": "the images are made to fit, criu is not started yet",
    "restore.running": "the tree runs again, nobody told it who it is",
    "restore.told": "the restored kernel knows who it is, the record does not tell of it",
    "restore.recorded": "the record tells of the restored kernel",
    "agent.listening": "a new agent has its socket and has not said so",
    "offer.written": "an offer of a session that ended unplanned is on the disk",
    "agent.burying": "the kernel has ended, its box and record are still there",
    "adopt.found": "a new server has found a kernel to adopt",
    "adopt.claimed": "the record names the new server",
    "adopt.shown": "Jupyter knows the adopted kernel, not its session",
    "adopt.done": "kernel and session are adopted",
    "swap.begun": "a server has let go of the kernel to be replaced",
    "swap.restored": "another process lives, the server does not show it yet",
    "swap.done": "the server shows the restored process",
    "park.secured": "a checkpoint holds the state of a kernel that shall end, and was read back",
    "park.marked": "the checkpoint is marked as parked, its kernel still lives",
    "cull.saved": "an idle kernel is saved, the server has not decided to end it",
    "cull.stopped": "a culled kernel is ended",
    "revive.attempted": "a restore after a crash is noted as tried, and not begun",
    "revive.restored": "a session was revived, the server does not show it yet",
    "depart.saved": "a server that ends has saved a kernel, not ended it",
    "depart.released": "a server that ends has let go of its kernels",
}


def _nothing(name: str) -> None:
    """Do nothing: no plan."""


class _Plan:
    """The plan of this process: what it has come by, what it is to suffer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = " ".join(sys.orig_argv)
        self._passed: Counter[int] = Counter()
        self._read = (0, 0)
        self._lock = threading.Lock()

    def point(self, name: str) -> None:
        """Suffer the first fault that is meant for this process here and now."""
        assert name in POINTS, name
        self._trace(name)
        for number, fault in self._meant(name, short=False):
            if self._fires(number):
                self._suffer(fault)

    def shortened(self, name: str, size: int) -> int | None:
        """Return after how many of `size` bytes the disk is full; None: it is not."""
        for number, _ in self._meant(name, short=True):
            if self._fires(number):
                return size // 2
        return None

    def _meant(self, name: str, short: bool) -> list[tuple[int, dict[str, Any]]]:
        found = []
        for number, fault in enumerate(self._faults()):
            if (fault["point"] != name or (fault["act"] == "short") != short
                    or fault.get("program", "") not in self._program):
                continue
            with self._lock:
                self._passed[number] += 1
                if self._passed[number] == fault.get("nth", 1):
                    found.append((number, fault))
        return found

    def _faults(self) -> list[dict[str, Any]]:
        """Return the plan as it is now; a new one is counted from the start."""
        try:
            with open(self._folder / "plan.json", "rb") as file:
                status, data = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return []
        with self._lock:
            if self._read != (status.st_ino, status.st_mtime_ns):
                self._read = (status.st_ino, status.st_mtime_ns)
                self._passed.clear()
        found: list[dict[str, Any]] = json.loads(data)
        return found

    def _trace(self, name: str) -> None:
        line = f"{os.getpid()} {name}\n".encode()
        handle = os.open(self._folder / "trace", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(handle, line)
        os.close(handle)

    def _fires(self, number: int) -> bool:
        """Tell whether this process is the one that a fault was meant for: it fires once."""
        try:
            os.close(os.open(self._folder / f"fired-{number}", os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        return True

    def _suffer(self, fault: dict[str, Any]) -> None:
        act = fault["act"]
        if act in ("kill", "stop"):
            number = signal.SIGKILL if act == "kill" else signal.SIGSTOP
            for pid in _victims(fault.get("victim")):
                os.kill(pid, number)
        elif act == "hang":
            while any(f["point"] == fault["point"] for f in self._faults()):
                time.sleep(_HANG_POLL_S)
        elif act in ("enospc", "eio"):
            code = errno.ENOSPC if act == "enospc" else errno.EIO
            raise OSError(code, os.strerror(code))
        else:
            raise ValueError(f"unknown fault {act!r}")


def _victims(who: int | str | None) -> list[int]:
    if who is None:
        return [os.getpid()]
    if isinstance(who, int):
        return [who]
    return [pid for pid in descendants(os.getpid())[1:] if command_name(pid) == who]


def _never_short(name: str, size: int) -> int | None:
    """Return None: no plan."""
    return None


_plan = _Plan(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None
point = _plan.point if _plan is not None else _nothing
shortened = _plan.shortened if _plan is not None else _never_short
