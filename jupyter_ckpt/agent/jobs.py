"""The agent's acts: one at a time, each known by the id its caller chose."""

from __future__ import annotations

import ctypes
import logging
import queue
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import Cancelled, CheckpointError, DumpFailed, JobNotFound, RestoreFailed, UsageError
from ..protocol import Job

log = logging.getLogger(__name__)
KEPT_JOBS = 20
"""Finished ones. A save that was forgotten is found in the store, a restore in the record."""

Act = Callable[[Job], dict[str, Any]]


class JobTable:
    """Runs acts one after another in a thread of its own.

    The same id always names the same job, so a request may be repeated until
    it is answered. An act's `CheckpointError` is the job's error; any other
    exception becomes a `DumpFailed` (for restores a `RestoreFailed`) that names
    it, and never ends the agent.
    """

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], Job] = {}
        self._queue: queue.SimpleQueue[tuple[Job, Act]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._busy = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when a job was asked for, began or ended."""
        self.turn = threading.Lock()
        """Held while an act runs. Who takes it may talk to the kernel: no dump begins."""
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    @property
    def idle(self) -> bool:
        return self._busy == 0

    def put(self, kind: str, request_id: str, act: Act, asker: str = "") -> Job:
        """Queue `act` under an id, or return the job that has the id already.

        `asker` is what its caller calls itself.
        """
        with self._lock:
            known = self._jobs.get((kind, request_id))
            if known is not None:
                return known
            job = self._jobs[kind, request_id] = Job(request_id, kind, asker=asker)
            if self._busy:
                job.phase = "waiting for another request to end"
            self._busy += 1
            for old in [k for k, j in self._jobs.items() if j.finished][:-KEPT_JOBS]:
                del self._jobs[old]
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
        """Take a job back that has not begun; raise `UsageError` when it has."""
        job = self.get(kind, request_id)
        with self._lock:
            if job.state == "queued":
                _fail(job, Cancelled("The request was cancelled before it began."))
                self.on_change()
                return job
        if job.finished:
            return job
        raise UsageError("The request has begun and cannot be cancelled any more.")

    def _run(self) -> None:
        while True:
            job, act = self._queue.get()
            try:
                with self.turn:
                    self._run_one(job, act)
                self.on_change()
                _give_memory_back()
            finally:
                with self._lock:
                    self._busy -= 1

    def _run_one(self, job: Job, act: Act) -> None:
        with self._lock:
            if job.finished:
                return
            job.state, job.phase = "quiescing", ""
        self.on_change()
        try:
            result = act(job)
        except CheckpointError as error:
            log.warning("%s %s failed: %s", job.kind, job.id, error.message)
            _fail(job, error)
        except Exception as error:
            log.error("%s %s failed:\n%s", job.kind, job.id, traceback.format_exc())
            kind = RestoreFailed if job.kind == "restores" else DumpFailed
            _fail(job, kind(
                f"The agent failed unexpectedly ({type(error).__name__}: {error}).",
                "The agent.log in the kernel's runtime folder tells more."))
        else:
            job.result = result
            job.enter("done")


def _give_memory_back() -> None:
    """Return to the system what an act needed for a while: agents live for weeks."""
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _fail(job: Job, error: CheckpointError) -> None:
    job.error = error
    job.state, job.phase = "failed", ""
