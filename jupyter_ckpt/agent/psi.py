"""Waiting for memory pressure without waking up: the kernel's own triggers (PSI).

Anybody may set one since Linux 6.6, if its window is a multiple of 2 s; before
that only root may. Where there is none we look every few seconds instead.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..procfs import readable

TRIGGER = b"some 100000 2000000\0"
"""Some process stalled for 100 ms within 2 s."""
LOOK_EVERY_S = 5.0


class PressureWait:
    """Waits for pressure, for `wake`, or for the end of a time."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._triggers: set[int] = set()

    @property
    def armed(self) -> bool:
        """Whether the kernel tells of pressure; else it has to be looked for."""
        return bool(self._triggers)

    def arm(self, files: Iterable[Path]) -> None:
        """Set a trigger on each of `files` where that is possible, instead of the ones before."""
        for handle in list(self._triggers):
            self._drop(handle)
        for path in files:
            try:
                handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                os.write(handle, TRIGGER)
            except OSError:
                os.close(handle)
                continue
            self.watch(handle)

    def watch(self, handle: int) -> None:
        """Take over an open descriptor that becomes urgently readable under pressure."""
        self._poll.register(handle, select.POLLPRI)
        self._triggers.add(handle)

    def wake(self) -> None:
        """End the present wait, or the next one; may be called by any thread."""
        os.eventfd_write(self._wake, 1)

    def wait(self, timeout_s: float | None, watching: bool = True) -> None:
        """Return on pressure (if `watching`), on `wake`, or after `timeout_s`."""
        if watching and not self._triggers:
            timeout_s = LOOK_EVERY_S if timeout_s is None else min(timeout_s, LOOK_EVERY_S)
        if not watching:
            readable([self._wake], timeout_s)
        else:
            for handle, event in self._poll.poll(None if timeout_s is None else timeout_s * 1000):
                if handle != self._wake and event & (select.POLLERR | select.POLLNVAL):
                    self._drop(handle)  # its cgroup is gone
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def close(self) -> None:
        """Give all descriptors back."""
        for handle in list(self._triggers):
            self._drop(handle)
        os.close(self._wake)

    def _drop(self, handle: int) -> None:
        self._triggers.discard(handle)
        self._poll.unregister(handle)
        os.close(handle)
