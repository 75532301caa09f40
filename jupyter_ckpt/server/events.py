"""Events: what happens to checkpoints, told on ``/api/events/subscribe``."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Protocol

from ..errors import CheckpointError
from ..protocol import Job

SCHEMA_ID = "https://events.jupyter.org/jupyter_ckpt/checkpoint/v1"
SCHEMA_PATH = Path(__file__).with_name("checkpoint-v1.yaml")
PROGRESS_INTERVAL_S = 0.2
_SPANS: dict[str, dict[str, tuple[float, float]]] = {
    "launches": {"launching": (0.05, 1.0)},
    "checkpoints": {"quiescing": (0.02, 0.05), "dumping": (0.05, 0.3), "storing": (0.3, 0.9),
                    "verifying": (0.9, 1.0)},
    # What it replaces is saved and read back between its own two states.
    "restores": {"preparing": (0.02, 0.4), "quiescing": (0.4, 0.42), "dumping": (0.42, 0.5),
                 "storing": (0.5, 0.7), "verifying": (0.7, 0.8), "restoring": (0.8, 1.0)}}
"""From where to where a job of a kind is said to be in each of its states."""


class Emitter(Protocol):
    """Who takes events."""

    def emit(self, action: str, phase: str, **fields: Any) -> None:
        """Emit one event; fields that are None are left out."""


class Silence:
    """Takes events where nobody listens: outside of a server."""

    def emit(self, action: str, phase: str, **fields: Any) -> None:
        """Do nothing."""


class EventStream:
    """Emits the events of this extension; a listener that fails never fails a save."""

    def __init__(self, event_logger: Any, log: logging.Logger) -> None:
        self._logger = event_logger
        self._log = log
        if SCHEMA_ID not in event_logger.schemas:
            event_logger.register_event_schema(SCHEMA_PATH)

    def emit(self, action: str, phase: str, **fields: Any) -> None:
        """Emit one event; fields that are None are left out."""
        data = {"action": action, "phase": phase}
        data.update({name: value for name, value in fields.items() if value is not None})
        try:
            self._logger.emit(schema_id=SCHEMA_ID, data=data)
        except Exception:
            self._log.warning("The event %s %s could not be emitted.", action, phase, exc_info=True)


class Act:
    """The events of one act: started, progress, then succeeded or failed."""

    def __init__(
        self, stream: Emitter, action: str, job_id: str, kernel_id: str, jobs: int = 1,
        **always: str,
    ) -> None:
        """Prepare an act of so many `jobs`; the fields `always` are in every event of it."""
        self._stream = stream
        self._always = always
        self.action, self.job_id, self.kernel_id = action, job_id, kernel_id
        self.checkpoint_id: str | None = None
        self._jobs, self._begun = jobs, list[str]()
        self._state = ""
        self._last_at = self._progress = 0.0

    def started(self) -> None:
        self._emit("started", progress=0.0)

    def progressed(self, job: Job) -> None:
        """Tell how far `job` is; at most a few times a second."""
        now = time.monotonic()
        if job.finished or (job.state == self._state
                            and now - self._last_at < PROGRESS_INTERVAL_S):
            return
        self._state, self._last_at = job.state, now
        if job.id not in self._begun:
            self._begun.append(job.id)
        done = (len(self._begun) - 1 + share_done(job)) / max(self._jobs, len(self._begun))
        # A job whose agent died begins anew; what was told stands.
        self._progress = max(self._progress, done)
        self._emit("progress", progress=self._progress, message=job.phase or job.state)

    def succeeded(self, message: str | None = None) -> None:
        self._emit("succeeded", progress=1.0, message=message)

    def failed(self, error: CheckpointError) -> None:
        self._emit("failed", message=error.message, error=error.to_dict())

    def _emit(self, phase: str, **fields: Any) -> None:
        self._stream.emit(self.action, phase, job_id=self.job_id, kernel_id=self.kernel_id,
                          checkpoint_id=self.checkpoint_id, **self._always, **fields)


def share_done(job: Job) -> float:
    """Return how much of a job is done, 0 to 1."""
    begin, end = _SPANS.get(job.kind, {}).get(job.state, (0.0, 0.0))
    if job.total_bytes <= 0:
        return begin
    return begin + (end - begin) * min(1.0, job.done_bytes / job.total_bytes)
