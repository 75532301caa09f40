"""Telling the in-kernel part how many cells to count."""

from __future__ import annotations

from collections.abc import Callable

from .jobs import JobTable
from .kernel import Kernel
from .kernel_link import LINK_TIMEOUT_S

TELL_FIRST_S, TELL_MOST_S = 0.2, 30.0


class Telling:
    """What the kernel has still to hear, and when it is tried next; locked by its owner."""

    def __init__(self, jobs: JobTable, clock: Callable[[], float]) -> None:
        self._jobs, self._clock = jobs, clock
        self._delay_s = TELL_FIRST_S
        self.due: float | None = None
        """When the kernel is told next; None: it knows."""

    def soon(self) -> None:
        """Tell the kernel at the next look."""
        self.due, self._delay_s = self._clock(), TELL_FIRST_S

    def nothing(self) -> None:
        """Tell the kernel nothing: it never had a schedule."""
        self.due = None

    def tell(self, kernel: Kernel) -> None:
        """Tell the kernel if that is due; again later if it is not up yet, or being saved."""
        if self.due is None or self._clock() < self.due:
            return
        self.due = None
        if not kernel.record.injected:
            return
        schedule = kernel.record.schedule
        if self._jobs.turn.acquire(blocking=False):
            try:
                answer = kernel.link.ask(
                    "schedule", LINK_TIMEOUT_S, scheduled=schedule is not None,
                    cells=schedule.cells if schedule else None)
            finally:
                self._jobs.turn.release()
            if answer is not None:
                return
        self.due = self._clock() + self._delay_s
        self._delay_s = min(2 * self._delay_s, TELL_MOST_S)
