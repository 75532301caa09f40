"""Jobs: what was asked of this server and how far it is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..protocol import Job, checked_request_id
from .backend import Backend

REMEMBERED = 500


@dataclass
class ServerJob:
    """A job and the kernel it acts on."""

    job: Job
    kernel_id: str

    def to_dict(self) -> dict[str, Any]:
        return {**self.job.to_dict(), "kernel_id": self.kernel_id}


class JobBoard:
    """The jobs of this server, in memory.

    A server that was restarted knows none of them: then the living agents,
    which act under the same ids, are asked.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._jobs: OrderedDict[str, ServerJob] = OrderedDict()

    def get(self, job_id: str) -> ServerJob | None:
        return self._jobs.get(job_id)

    def add(self, job: Job, kernel_id: str) -> ServerJob:
        """Remember a new job; the oldest finished ones are forgotten."""
        entry = self._jobs[job.id] = ServerJob(job, kernel_id)
        finished = [key for key, known in self._jobs.items() if known.job.finished]
        for key in finished[:max(0, len(self._jobs) - REMEMBERED)]:
            del self._jobs[key]
        return entry

    async def find(self, job_id: str) -> ServerJob:
        """Return a job; raise `JobNotFound` when neither we nor an agent knows it."""
        checked_request_id(job_id)
        known = self._jobs.get(job_id)
        if known is not None:
            return known
        job, kernel_id = await self._backend.run(self._backend.find_job, job_id)
        job.kind = "save"
        return ServerJob(job, kernel_id)
