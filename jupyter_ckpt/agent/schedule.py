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

from ..errors import CheckpointError
from ..manifest import utc_now
from ..plan import Schedule, changed
from ..protocol import Job
from ..record import all_records, write_record
from .activity import Mark
from .core import LINK_TIMEOUT_S, Agent
from .jobs import JobTable
from .kernel import Kernel
from .retention import Retention

log = logging.getLogger(__name__)
BUSY_RETRY_S = 5.0
STUMBLE_RETRY_S = 60.0
TELL_FIRST_S, TELL_MOST_S = 0.2, 30.0
BACKOFF_BASE_S = 30.0
"""For schedules that count cells only; else it is the interval."""
BACKOFF_MOST = 16


class Scheduler:
    """Watches over the schedule of the agent's kernel, whichever that is just now."""

    def __init__(
        self, agent: Agent, jobs: JobTable, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._agent, self._jobs, self._clock = agent, jobs, clock
        self._retention = Retention()
        self._wakeup = threading.Condition()
        self._woken = True
        self._kernel: Kernel | None = None
        self._earliest: float | None = None
        """When the next save by time may come at the earliest; None: no such schedule."""
        self._not_before = float("-inf")
        self._failures = 0
        self._job: Job | None = None
        self._untidy = False
        self._untold: float | None = None
        """When the kernel is told next how many cells to count; None: it knows."""
        self._tell_delay_s = TELL_FIRST_S
        self._last: dict[str, Any] | None = None
        agent.news = self.wake

    def start(self) -> None:
        """Begin to watch, in a thread of its own."""
        threading.Thread(target=self._run, name="schedule", daemon=True).start()

    def wake(self) -> None:
        """Look again now: kernel, schedule or checkpoints have changed."""
        with self._wakeup:
            self._woken = True
            self._wakeup.notify_all()

    # -- requests -----------------------------------------------------------------

    def view(self) -> dict[str, Any]:
        """Return what ``GET /schedule`` answers."""
        kernel = self._agent.need_kernel()
        schedule = kernel.record.schedule
        due = self._due(kernel)
        return {
            "kernel_id": kernel.record.kernel_id,
            "every_s": schedule.every_s if schedule else None,
            "cells": schedule.cells if schedule else None,
            "keep": schedule.kept if schedule else None,
            "next_due_s": None if due is None else round(max(0.0, due - self._clock()), 3),
            "last_automatic": self._last,
        }

    def change(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Set the kernel's schedule (see `plan.changed`); return the `view` of it.

        Raises `UsageError`; nothing is changed then.
        """
        kernel = self._agent.need_kernel()
        with self._wakeup:
            before = kernel.record.schedule
            schedule = changed(before, changes)
            kernel.record.schedule = schedule
            write_record(self._agent.folder, kernel.record)
            if schedule is None or before is None or schedule.every_s != before.every_s:
                self._earliest = _after(schedule, self._clock())
            self._failures, self._not_before = 0, float("-inf")
            self._tell_soon()
        self.wake()
        return self.view()

    def cells_done(self) -> dict[str, Any]:
        """Save because the kernel has run its number of cells; answers at once.

        Returns ``{"accepted", "cells"}``; ``cells`` is the number to count to.
        """
        kernel = self._agent.need_kernel()
        schedule = kernel.record.schedule
        cells = schedule.cells if schedule else None
        accepted = cells is not None and self._clock() >= self._not_before and self._put("cell")
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
        times = [t for t in (due, self._untold) if t is not None]
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
        if self._untold is not None and self._clock() >= self._untold:
            self._tell(kernel)
        if self._untidy:
            self._untidy = False
            self._tidy(kernel)
        due = self._due(kernel)
        if due is not None and self._clock() >= due:
            self._interval(kernel)

    def _begin(self, kernel: Kernel | None) -> None:
        """Turn to another kernel: started, taken over, or restored."""
        elapsed_s = self._since_last(kernel) if kernel is not None else 0.0
        with self._wakeup:
            self._kernel = kernel
            self._failures, self._not_before = 0, float("-inf")
            schedule = kernel.record.schedule if kernel is not None else None
            self._earliest = _after(schedule, self._clock() - elapsed_s)
            self._untold = None
            # A kernel in its first life without a schedule never had one to forget.
            if kernel is not None and (schedule is not None or kernel.record.epoch > 1):
                self._tell_soon()

    def _since_last(self, kernel: Kernel) -> float:
        """Return the age of the last checkpoint, for an agent that took a kernel over.

        Or a schedule would begin anew with each agent, and never come to be due.
        """
        record = kernel.record
        if kernel.saved_at is not None or record.parent is None or record.schedule is None:
            return 0.0
        try:
            saved = datetime.fromisoformat(
                self._agent.tools.store().resolve(record.parent).created_at.replace("Z", "+00:00"))
        except (CheckpointError, ValueError):
            return 0.0
        return max(0.0, (datetime.now(timezone.utc) - saved).total_seconds())

    # -- saving -------------------------------------------------------------------

    def _interval(self, kernel: Kernel) -> None:
        """Save if the kernel went on since it was last saved."""
        schedule = kernel.record.schedule
        if self._in_flight or not self._jobs.turn.acquire(blocking=False):
            self._earliest = self._clock() + BUSY_RETRY_S
            return
        try:
            used = Mark.of(kernel.record.root, None).cpu_s
            status = kernel.link.ask("status", LINK_TIMEOUT_S)
            now = Mark.of(kernel.record.root, status)
        finally:
            self._jobs.turn.release()
        held = status is None and kernel.record.injected  # by native code: something runs
        went_on = held or now.is_beyond(kernel.mark)
        self._earliest = _after(schedule, self._clock())
        if went_on:
            self._put("interval")
        elif kernel.mark is not None:
            kernel.mark = kernel.mark.allowing(now.cpu_s - used)  # the question's own cost

    @property
    def _in_flight(self) -> bool:
        return self._job is not None and not self._job.finished

    def _put(self, trigger: str) -> bool:
        """Ask for a save unless one of ours is on its way; tell whether it was asked for."""
        with self._wakeup:
            if self._in_flight:
                return False
            self._job = self._jobs.put("checkpoints", f"auto-{secrets.token_hex(8)}",
                                       lambda job: self._save(trigger, job))
        return True

    def _save(self, trigger: str, job: Job) -> dict[str, Any]:
        """Make one automatic checkpoint; runs in the job table's thread."""
        try:
            manifest = self._agent.save({"trigger": trigger}, job)
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
            self._last = {"at": utc_now(), "id": manifest["id"], "error": None}
            self._untidy = True
        self.wake()
        return manifest

    def _note_failure(self, error: CheckpointError) -> None:
        log.warning("an automatic checkpoint failed: %s", error.message)
        kernel = self._agent.kernel
        schedule = kernel.record.schedule if kernel is not None else None
        base_s = schedule.every_s if schedule and schedule.every_s else BACKOFF_BASE_S
        with self._wakeup:
            # The first failure costs nothing: the next due time is as it was.
            delay_s = base_s * min(2 ** self._failures, BACKOFF_MOST) if self._failures else 0.0
            self._failures += 1
            self._not_before = self._clock() + delay_s
            self._last = {"at": utc_now(), "id": None, "error": error.to_dict()}
        self.wake()

    def _tidy(self, kernel: Kernel) -> None:
        schedule = kernel.record.schedule
        if schedule is None:
            return
        alive = {r.kernel_id for r in all_records(self._agent.folder.parent)[0] if r.is_alive()}
        try:
            removed = self._retention.tidy(self._agent.tools.store(), kernel.record,
                                           schedule.kept, alive)
        except CheckpointError as error:
            log.warning("old automatic checkpoints stay: %s", error.message)
            return
        if removed:
            log.info("removed automatic checkpoints: %s", ", ".join(removed))

    # -- telling the kernel ---------------------------------------------------------

    def _tell_soon(self) -> None:
        self._untold, self._tell_delay_s = self._clock(), TELL_FIRST_S

    def _tell(self, kernel: Kernel) -> None:
        """Tell the in-kernel part how many cells to count; again later if it is not up yet."""
        self._untold = None
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
        with self._wakeup:
            self._untold = self._clock() + self._tell_delay_s
            self._tell_delay_s = min(2 * self._tell_delay_s, TELL_MOST_S)


def _after(schedule: Schedule | None, start: float) -> float | None:
    """Return the end of an interval that began at `start`, None when there are none."""
    return None if schedule is None or schedule.every_s is None else start + schedule.every_s
