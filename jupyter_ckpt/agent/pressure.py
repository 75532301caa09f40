"""Saving a kernel when memory runs short, before the kernel's OOM killer comes.

Only kernels that have a schedule, and only in time where memory runs short
over seconds: nothing can save a process that takes all that is left at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import CheckpointError, OutOfSpace, UsageError
from ..faults import point
from ..manifest import PRESSURE
from ..plan import DEFAULT_SAVE_BELOW, SAVE_BELOW_VARIABLE
from ..protocol import Job
from ..sizes import Threshold, parse_threshold
from ..store.locks import EXCLUSIVE, LockFile
from .core import Agent
from .kernel import Kernel
from .memory import Room, pressure_files, rooms
from .psi import PressureWait

log = logging.getLogger(__name__)
LOCK_NAME = ".pressure.lock"
SAVED_RETRY_S = 300.0
"""After a save for want of memory, or one that cannot be: at most one in this time."""
UNCHANGED_RETRY_S = 30.0
BUSY_RETRY_S = 3.0
SAVING_LOOK_S = 1.0
ROOM_FOR_SAVING_BYTES = 64 << 20
"""What criu and we need ourselves; with less a save would call the OOM killer."""
DISK_PER_MEMORY = 2.0
"""Images and chunks lie beside each other for a while."""


class Saves(Protocol):
    """What is needed of the `Scheduler`."""

    def save_if_went_on(
        self, kernel: Kernel, trigger: str, purpose: str | None = None) -> Job | str: ...

    def tell_failure(self, error: CheckpointError) -> None: ...


class PressureGuard:
    """Looks at the memory that is left, and has the kernel saved when that is little."""

    def __init__(
        self, agent: Agent, saves: Saves, threshold: Threshold | None,
        clock: Callable[[], float] = time.monotonic,
        read_rooms: Callable[[int], Sequence[Room]] = rooms,
        read_free_disk: Callable[[Path], int] | None = None,
    ) -> None:
        self._agent, self._saves, self._threshold = agent, saves, threshold
        self._clock, self._read_rooms = clock, read_rooms
        self._read_free_disk = read_free_disk or free_disk_bytes
        self._wait: PressureWait | None = None
        self._armed_for: Kernel | None = None
        self._not_before = float("-inf")
        self._job: Job | None = None
        self._lock: LockFile | None = None
        """Held while our save goes on: no two kernels are dumped for want of memory at once."""

    def start(self) -> None:
        """Begin to watch, in a thread of its own; not at all when it is switched off."""
        if self._threshold is not None:
            self._wait = PressureWait()
            threading.Thread(target=self._run, name="pressure", daemon=True).start()

    def wake(self) -> None:
        """Look again now: kernel or schedule have changed."""
        if self._wait is not None:
            self._wait.wake()

    def _run(self) -> None:
        wait = self._wait
        assert wait is not None
        while True:
            try:
                timeout_s = self.look()
                kernel = self._watched()
                if kernel is not self._armed_for:
                    self._armed_for = kernel
                    wait.arm(_files(kernel))
            except Exception:
                log.exception("the watch for memory stumbled")
                timeout_s = SAVED_RETRY_S
            wait.wait(timeout_s, watching=self._armed_for is not None)

    def look(self) -> float | None:
        """Save if there is need and room; return when to look again whatever happens.

        In seconds; None: only under pressure.
        """
        if self._job is not None:
            if not self._job.finished:
                return SAVING_LOOK_S
            self._job = None
            self._let_go()
        kernel = self._watched()
        if kernel is None or kernel.record.kernel is None:
            return None
        found = self._read_rooms(kernel.record.kernel.pid)
        short = [room for room in found if self._is_short(room)]
        if not short:
            return None
        wait_s = self._not_before - self._clock()
        return wait_s if wait_s > 0 else self._save(kernel, short)

    def _watched(self) -> Kernel | None:
        kernel = self._agent.kernel
        return kernel if kernel is not None and kernel.record.schedule is not None else None

    def _is_short(self, room: Room) -> bool:
        return (self._threshold is not None
                and room.available_bytes <= self._threshold.of(room.total_bytes))

    def _save(self, kernel: Kernel, short: Sequence[Room]) -> float:
        if not self._take_lock():
            return BUSY_RETRY_S
        try:
            asked = self._ask(kernel, short)
            if isinstance(asked, Job):
                point("pressure.asked")
        except BaseException:
            self._let_go()  # or no kernel of this user would be saved any more
            raise
        if isinstance(asked, Job):
            self._job = asked
            self._not_before = self._clock() + SAVED_RETRY_S
            return SAVING_LOOK_S
        self._let_go()
        return asked

    def _ask(self, kernel: Kernel, short: Sequence[Room]) -> Job | float:
        """Ask for a save; return it, or when to look again because there is none."""
        tightest = min(short, key=lambda room: room.available_bytes)
        refusal = self._refusal(kernel, tightest)
        if refusal is not None:
            self._saves.tell_failure(refusal)
            self._not_before = self._clock() + SAVED_RETRY_S
            return SAVED_RETRY_S
        answer = self._saves.save_if_went_on(kernel, "interval", PRESSURE)
        if isinstance(answer, str):
            return UNCHANGED_RETRY_S if answer == "unchanged" else BUSY_RETRY_S
        log.warning("memory runs short (%d MB of %d MB left of %s): the kernel is saved",
                    tightest.available_bytes >> 20, tightest.total_bytes >> 20, tightest.where)
        return answer

    def _refusal(self, kernel: Kernel, tightest: Room) -> CheckpointError | None:
        """Return why a save cannot be expected to succeed, None when it can."""
        if tightest.available_bytes < ROOM_FOR_SAVING_BYTES:
            return OutOfSpace(
                f"Memory ran so short ({tightest.available_bytes >> 20} MB left of "
                f"{tightest.where}) that the session could not be saved any more.",
                "Save earlier: a larger CheckpointApp.save_below_memory.")
        needed = int(DISK_PER_MEMORY * sum(p["rss_bytes"] for p in kernel.processes()))
        free = self._read_free_disk(self._agent.tools.store_dir)
        if free < needed:
            return OutOfSpace(
                f"Memory ran short, and the session was not saved: that takes about "
                f"{needed >> 20} MB on the disk of the checkpoint store, and {free >> 20} MB "
                "are free.",
                "Free space, or remove checkpoints with 'jupyter ckpt rm' and then "
                "'jupyter ckpt gc'.")
        return None

    def _take_lock(self) -> bool:
        lock = LockFile(self._agent.folder.parent / LOCK_NAME)
        try:
            if lock.try_lock(EXCLUSIVE):
                self._lock = lock
                return True
        finally:
            if self._lock is not lock:
                lock.close()
        return False

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def configured_threshold() -> Threshold | None:
    """Return the threshold of this process's environment; a senseless one is named."""
    text = os.environ.get(SAVE_BELOW_VARIABLE) or DEFAULT_SAVE_BELOW
    try:
        return parse_threshold(text)
    except UsageError as error:
        log.error("%s: %s %s is used.", SAVE_BELOW_VARIABLE, error.message, DEFAULT_SAVE_BELOW)
        return parse_threshold(DEFAULT_SAVE_BELOW)


def free_disk_bytes(folder: Path) -> int:
    """Return the free space for this user where `folder` is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _files(kernel: Kernel | None) -> list[Path]:
    if kernel is None or kernel.record.kernel is None:
        return []
    return pressure_files(kernel.record.kernel.pid)
