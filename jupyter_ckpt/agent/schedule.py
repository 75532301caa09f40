"""Checkpoints that come by themselves: by time, or after so many cells.

One thread that sleeps until the next due time, for ever when there is no
schedule. What it decides goes through the job table like everybody's requests.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from ..errors import CheckpointError, IntegrityError, KernelNotFound, OutOfSpace
from ..manifest import utc_now
from ..plan import Schedule, changed, shown
from ..protocol import Job
from .activity import went_on
from .core import Agent
from .jobs import JobTable
from .kernel import Kernel
from .kernel_link import LINK_TIMEOUT_S
from .pressure import PressureGuard, configured_threshold
from .telling import Telling
from .tidying import Tidying, configured_keeping

log = logging.getLogger(__name__)
BUSY_RETRY_S = 5.0
STUMBLE_RETRY_S = 60.0
CELLS_RETRY_S = 1.0
BACKOFF_BASE_S = 30.0
"""For schedules that count cells only; else it is the interval."""
BACKOFF_MOST = 16

Act = Callable[[dict[str, Any], Job], dict[str, Any]]
"""What carries out a request as a job; see `saving.save`."""


class Scheduler:
    """Watches over the schedule of the agent's kernel, whichever that is just now."""

    def __init__(
        self, agent: Agent, jobs: JobTable, save: Act,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent, self._jobs, self._clock = agent, jobs, clock
        self._save_kernel = save
        self._keeping = configured_keeping()
        self._tidying = Tidying(agent, self._found_damage)
        self._wakeup = threading.Condition()
        self._woken = True
        self._kernel: Kernel | None = None
        self._earliest: float | None = None
        """When the next save by time may come at the earliest; None: no such schedule."""
        self._not_before = float("-inf")
        self._failures = 0
        self._job: Job | None = None
        self._tidied: float | None = None
        """When the kernel was last saved or restored, as of the last tidying up."""
        self._disk_full = False
        """Whether a save failed for want of disk space, and nothing was done about it yet."""
        self._cells_due = False
        """Whether cells ended while a save was on its way, which may not hold what they did."""
        self._telling = Telling(jobs, clock)
        self._last: dict[str, Any] | None = None
        self._guard = PressureGuard(agent, self, configured_threshold())
        agent.news = self.wake

    def start(self) -> None:
        """Begin to watch, in a thread of its own."""
        threading.Thread(target=self._run, name="schedule", daemon=True).start()
        self._guard.start()

    def wake(self) -> None:
        """Look again now: kernel, schedule or checkpoints have changed."""
        with self._wakeup:
            self._woken = True
            self._wakeup.notify_all()
        self._guard.wake()

    # -- requests -----------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Return what ``GET /schedule`` answers."""
        kernel = self._agent.need_kernel()
        schedule = kernel.record.schedule
        due = self._due(kernel)
        return {
            "kernel_id": kernel.record.kernel_id, **shown(schedule),
            "next_due_s": None if due is None else round(max(0.0, due - self._clock()), 3),
            "last_automatic": self._last}

    def change(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Set the kernel's schedule (see `plan.changed`); return the `view` of it.

        Raises `UsageError`, and `KernelNotFound` for a kernel that is just being
        replaced; nothing is changed then.
        """
        kernel = self._agent.need_kernel()
        with self._wakeup:
            before = kernel.record.schedule
            schedule = changed(before or self._keeping, changes)
            if not self._agent.note(kernel, schedule=schedule):
                raise KernelNotFound(f"Kernel {kernel.record.kernel_id} is being replaced.",
                                     "Set the schedule when that is done.")
            if schedule is None or before is None or schedule.every_s != before.every_s:
                self._earliest = _after(schedule, self._clock())
            self._failures, self._not_before = 0, float("-inf")
            self._cells_due = False
            self._telling.soon()
        self.wake()
        return self.view()

    def cells_done(self) -> dict[str, Any]:
        """Save because the kernel has run its number of cells; answers at once.

        While another save of ours is on its way it comes after that. Returns
        ``{"accepted", "cells"}``; ``cells`` is the number to count to.
        """
        kernel = self._agent.need_kernel()
        schedule = kernel.record.schedule
        cells = schedule.cells if schedule else None
        accepted = (cells is not None and self._clock() >= self._not_before
                    and self._put("cell") is not None)
        return {"accepted": accepted, "cells": cells}

    # -- the thread ---------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._woken, self._sleep_s())
                self._woken = False
            try:
                self.step()
            except Exception:
                log.exception("the schedule stumbled")
                with self._wakeup:
                    self._not_before = self._clock() + STUMBLE_RETRY_S

    def _sleep_s(self) -> float | None:
        kernel = self._agent.kernel
        due = self._due(kernel) if kernel is not None else None
        times = [t for t in (due, self._telling.due) if t is not None]
        if self._cells_due:
            times.append(max(self._clock() + CELLS_RETRY_S, self._not_before))
        return max(0.0, min(times) - self._clock()) if times else None

    def _due(self, kernel: Kernel) -> float | None:
        """Return when the next save by time is due, None when there is none."""
        schedule = kernel.record.schedule
        if self._earliest is None or schedule is None or schedule.every_s is None:
            return None
        saved = kernel.saved_at
        after_save = saved + schedule.every_s if saved is not None else self._earliest
        return max(self._earliest, after_save, self._not_before)

    def step(self) -> None:
        """Do what is due now, if anything."""
        kernel = self._agent.kernel
        if kernel is not self._kernel:
            self._begin(kernel)
        if kernel is None:
            return
        self._telling.tell(kernel)
        if kernel.saved_at != self._tidied or self._disk_full:
            self._tidied = kernel.saved_at
            self._tidy(kernel)
        if self._cells_due and self._clock() >= self._not_before:
            self._cells_due = self.save_if_went_on(kernel, "cell") == "busy"
        due = self._due(kernel)
        if due is not None and self._clock() >= due:
            self._interval(kernel)

    def _begin(self, kernel: Kernel | None) -> None:
        """Turn to another kernel: started, taken over, or restored."""
        elapsed_s = self._since_last(kernel) if kernel is not None else 0.0
        with self._wakeup:
            self._kernel = kernel
            self._remember(kernel)
            schedule = kernel.record.schedule if kernel is not None else None
            self._earliest = _after(schedule, self._clock() - elapsed_s)
            self._telling.nothing()
            self._cells_due = False
            # A kernel in its first life without a schedule never had one to forget.
            if kernel is not None and (schedule is not None or kernel.record.epoch > 1):
                self._telling.soon()

    def _remember(self, kernel: Kernel | None) -> None:
        """Go on where the agent before us was: how the last save went, and when the next may be."""
        self._failures, self._not_before = 0, float("-inf")
        noted = kernel.record.automatic if kernel is not None else None
        if kernel is None or noted is None:
            return
        last, failures = noted.get("last"), noted.get("failures")
        self._last = last if isinstance(last, dict) else None
        if self._last is not None and type(failures) is int and failures > 0:
            self._failures = failures
            left_s = self._backoff_s(kernel.record.schedule) - _age_s(str(self._last.get("at")))
            self._not_before = self._clock() + max(0.0, left_s)

    def _since_last(self, kernel: Kernel) -> float:
        """Return the age of the last checkpoint, for an agent that took a kernel over.

        Or a schedule would begin anew with each agent, and never come to be due.
        """
        record = kernel.record
        if kernel.saved_at is not None or record.parent is None or record.schedule is None:
            return 0.0
        try:
            return _age_s(self._agent.tools.store().resolve(record.parent).created_at)
        except CheckpointError:
            return 0.0

    # -- saving -------------------------------------------------------------------

    def _interval(self, kernel: Kernel) -> None:
        answer = self.save_if_went_on(kernel, "interval")
        if answer == "busy":
            self._earliest = self._clock() + BUSY_RETRY_S
        else:
            self._earliest = _after(kernel.record.schedule, self._clock())

    def save_if_went_on(
        self, kernel: Kernel, trigger: str, purpose: str | None = None
    ) -> Job | str:
        """Ask for a save if the kernel went on since it was last saved.

        Called by this thread and the `PressureGuard`. Returns the job, else
        why there is none: ``"busy"`` (something is being done with the kernel;
        nobody knows) or ``"unchanged"``.
        """
        if self._in_flight or not self._jobs.turn.acquire(blocking=False):
            return "busy"
        try:
            beyond = went_on(kernel, LINK_TIMEOUT_S)
        finally:
            self._jobs.turn.release()
        return (self._put(trigger, purpose) or "busy") if beyond else "unchanged"

    @property
    def _in_flight(self) -> bool:
        return self._job is not None and not self._job.finished

    def _put(self, trigger: str, purpose: str | None = None) -> Job | None:
        """Ask for a save and return its job; None while another of ours is on its way."""
        with self._wakeup:
            if self._in_flight:
                self._cells_due |= trigger == "cell"
                return None
            self._cells_due = False
            self._job = job = self._jobs.put("checkpoints", f"auto-{secrets.token_hex(8)}",
                                             lambda job: self._save(trigger, purpose, job))
        if job.state == "failed" and job.error is not None:
            self._note_failure(job.error)  # refused: an act before it hangs in a disk
        return job

    def _save(self, trigger: str, purpose: str | None, job: Job) -> dict[str, Any]:
        """Make one automatic checkpoint; runs in the job table's thread."""
        try:
            manifest = self._save_kernel({"trigger": trigger, "purpose": purpose}, job)
        except CheckpointError as error:
            self._note_failure(error)
            raise
        except Exception as error:
            self._note_failure(CheckpointError(
                f"The agent failed unexpectedly ({type(error).__name__}: {error}).",
                "The agent.log in the kernel's runtime folder tells more."))
            raise
        with self._wakeup:
            self._failures, self._not_before = 0, float("-inf")
        self._note(manifest["id"], None)
        self.wake()
        return manifest

    def tell_failure(self, error: CheckpointError) -> None:
        """Keep in mind, for whoever asks, that a save was not even tried, or went bad."""
        log.warning("%s", error.message)
        self._note(None, error)

    def _note_failure(self, error: CheckpointError) -> None:
        log.warning("an automatic checkpoint failed: %s", error.message)
        kernel = self._agent.kernel
        schedule = kernel.record.schedule if kernel is not None else None
        with self._wakeup:
            self._failures += 1
            self._disk_full = isinstance(error, OutOfSpace)
            self._not_before = self._clock() + self._backoff_s(schedule)
        self._note(None, error)
        self.wake()

    def _backoff_s(self, schedule: Schedule | None) -> float:
        """Return how long to wait after so many failures: after the first as ever."""
        base_s = schedule.every_s if schedule and schedule.every_s else BACKOFF_BASE_S
        return base_s * min(2 ** (self._failures - 1), BACKOFF_MOST) if self._failures > 1 else 0.0

    def _note(self, checkpoint_id: str | None, error: CheckpointError | None) -> None:
        """Keep how a save went, also for the agent after us."""
        last = {"at": utc_now(), "id": checkpoint_id, "error": error.to_dict() if error else None}
        with self._wakeup:
            self._last = last
            failures = self._failures
        kernel = self._agent.kernel
        if kernel is not None:
            self._agent.remember(kernel, automatic={"last": last, "failures": failures})

    def _tidy(self, kernel: Kernel) -> None:
        full, self._disk_full = self._disk_full, False
        self._tidying.run(kernel, full)

    def _found_damage(self, error: IntegrityError) -> None:
        """Have the next save prove what it shares with what was found damaged, and tell so."""
        kernel = self._agent.kernel
        if kernel is not None:
            kernel.distrust()
        self.tell_failure(error)


def _age_s(at: str) -> float:
    """Return how long ago an ISO 8601 time was; 0 for no time, and for one to come."""
    try:
        then = datetime.fromisoformat(at.replace("Z", "+00:00"))
        return max(0.0, (datetime.now(timezone.utc) - then).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _after(schedule: Schedule | None, start: float) -> float | None:
    """Return the end of an interval that began at `start`, None when there are none."""
    return None if schedule is None or schedule.every_s is None else start + schedule.every_s
