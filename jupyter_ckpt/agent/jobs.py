"""The agent's acts: one at a time, each known by the id its caller chose."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from ..errors import CheckpointError, DumpFailed, JobNotFound, RestoreFailed, UsageError
from ..protocol import Job
from . import heap
from .stalls import StallWatch, refusal

log = logging.getLogger(__name__)
KEPT_JOBS = 20
"""Finished ones. A save that was forgotten is found in the store, a restore in the record."""
STILL_S = 60.0
"""An act of which nothing moved for so long hangs: an end is not delayed for it any more."""
LOOK_EVERY_S = 0.5

Act = Callable[[Job], dict[str, Any]]


class JobTable:
    """Runs acts one after another in a thread of its own.

    The same id always names the same job, so a request may be repeated until
    it is answered. An act's `CheckpointError` is the job's error; any other
    exception becomes a `DumpFailed` (for restores a `RestoreFailed`) that names
    it, and never ends the agent. An act that hangs in a disk is given up in the
    end; until the disk lets go of it, whatever else is asked for fails at once.
    """

    def __init__(self, stalls: StallWatch | None = None) -> None:
        self._jobs: dict[tuple[str, str], Job] = {}
        self._queue: queue.SimpleQueue[tuple[Job, Act]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy = 0
        self._stalls = stalls or StallWatch()
        self._hangs: CheckpointError | None = None
        """Why the act that runs was given up; None: it was not."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a job was asked for, began or ended."""
        self.turn = threading.Lock()
        """Held while an act runs. Who takes it may talk to the kernel: no dump begins."""
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether nothing is done that an end should wait for."""
        return self._busy == 0 or self._hangs is not None

    def put(self, kind: str, request_id: str, act: Act, asker: str = "") -> Job:
        """Queue `act` under an id, or return the job that has the id already.

        `asker` is what its caller calls itself.
        """
        with self._lock:
            known = self._jobs.get((kind, request_id))
            if known is not None:
                return known
            job = self._jobs[kind, request_id] = Job(request_id, kind, asker=asker)
            if self._hangs is not None:
                job.fail(refusal(kind, self._hangs))
            elif self._busy:
                job.phase = "waiting for another request to end"
            for old in [k for k, j in self._jobs.items() if j.finished][:-KEPT_JOBS]:
                del self._jobs[old]
            if not job.finished:
                self._busy += 1
                self._queue.put((job, act))
        self.on_change()
        return job

    def get(self, kind: str, request_id: str) -> Job:
        try:
            return self._jobs[kind, request_id]
        except KeyError:
            raise JobNotFound(f"This agent knows no request {request_id}.") from None

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def cancel(self, kind: str, request_id: str) -> Job:
        """Take back a save whose dump has not begun, or another job that has not.

        Returns the job, which has failed then, or had ended before; raises
        `UsageError` when it is too late.
        """
        job = self.get(kind, request_id)
        if job.cancel():
            self.on_change()
        if job.finished:
            return job
        raise UsageError("The request has begun and cannot be cancelled any more.")

    def await_running(self, still_s: float = STILL_S) -> None:
        """Return when the act that runs just now has ended, or has hung for `still_s`."""
        moved, since = None, time.monotonic()
        while not self.turn.acquire(timeout=LOOK_EVERY_S):
            seen = [(job.id, job.state, job.done_bytes) for job in self.all()]
            if seen != moved:
                moved, since = seen, time.monotonic()
            elif time.monotonic() - since > still_s or self._hangs is not None:
                return
        self.turn.release()

    def _give_up(self, error: CheckpointError) -> None:
        """Let all that waits for an act that was given up fail, and all that will."""
        with self._lock:
            self._hangs = error
            for job in self._jobs.values():
                if job.state == "queued":
                    job.fail(refusal(job.kind, error))
        self.on_change()

    def _run(self) -> None:
        while True:
            self._run_next()
            heap.give_back()  # only now: nothing of the act is referred to any more

    def _run_next(self) -> None:
        job, act = self._queue.get()
        try:
            with self.turn, self._stalls.over(job, self._give_up):
                self._run_one(job, act)
            self.on_change()
        finally:
            with self._lock:
                self._busy -= 1
                self._hangs = None

    def _run_one(self, job: Job, act: Act) -> None:
        if job.finished:
            return
        self.on_change()
        try:
            job.enter("quiescing", at_disk=True)  # the store is asked first of all
            job.result = act(job)
            job.enter("done")
        except CheckpointError as error:
            log.warning("%s %s failed: %s", job.kind, job.id, error.message)
            job.fail(error)
        except Exception as error:
            log.error("%s %s failed:\n%s", job.kind, job.id, traceback.format_exc())
            kind = RestoreFailed if job.kind == "restores" else DumpFailed
            job.fail(kind(
                f"The agent failed unexpectedly ({type(error).__name__}: {error}).",
                "The agent.log in the kernel's runtime folder tells more."))
