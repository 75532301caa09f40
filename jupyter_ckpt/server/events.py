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
_FIXED_SHARE = {"queued": 0.0, "launching": 0.05, "quiescing": 0.05, "preparing": 0.05,
                "verifying": 0.1, "dumping": 0.2, "storing": 0.3, "restoring": 0.8, "done": 1.0}
"""How far a job counts as done on entering a state that names no bytes."""


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
        self, stream: Emitter, action: str, job_id: str, kernel_id: str, **always: str
    ) -> None:
        """Prepare; the fields `always` are in every event of the act."""
        self._stream = stream
        self._always = always
        self.action, self.job_id, self.kernel_id = action, job_id, kernel_id
        self.checkpoint_id: str | None = None
        self._state = ""
        self._last_at = 0.0

    def started(self) -> None:
        self._emit("started", progress=0.0)

    def progressed(self, job: Job) -> None:
        """Tell how far `job` is; at most a few times a second."""
        now = time.monotonic()
        if job.finished or (job.state == self._state
                            and now - self._last_at < PROGRESS_INTERVAL_S):
            return
        self._state, self._last_at = job.state, now
        self._emit("progress", progress=share_done(job), message=job.phase or job.state)

    def succeeded(self, message: str | None = None) -> None:
        self._emit("succeeded", progress=1.0, message=message)

    def failed(self, error: CheckpointError) -> None:
        self._emit("failed", message=error.message, error=error.to_dict())

    def _emit(self, phase: str, **fields: Any) -> None:
        self._stream.emit(self.action, phase, job_id=self.job_id, kernel_id=self.kernel_id,
                          checkpoint_id=self.checkpoint_id, **self._always, **fields)


def share_done(job: Job) -> float:
    """Return how much of a job is done, 0 to 1."""
    floor = _FIXED_SHARE.get(job.state, 0.0)
    if job.total_bytes <= 0:
        return floor
    return min(1.0, floor + (1.0 - floor) * job.done_bytes / job.total_bytes)
