"""Saving a kernel on behalf of the browser."""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from typing import Any

from ..errors import CheckpointError, DumpFailed, NotFound
from ..manifest import Manifest, checked_name
from ..protocol import Job, checked_kernel_id, checked_request_id, checkpoint_id
from ..record import Record
from .backend import Backend
from .documents import Documents
from .events import Act, EventStream
from .jobs import JobBoard, ServerJob
from .lookup import our_record, session_of_kernel


class SaveService:
    """Starts saves and follows them; one job and one row of events each."""

    def __init__(
        self,
        backend: Backend,
        jobs: JobBoard,
        events: EventStream,
        documents: Documents,
        kernel_manager: Any,
        session_manager: Any,
        log: logging.Logger,
    ) -> None:
        self._backend = backend
        self._jobs = jobs
        self._events = events
        self._documents = documents
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self,
        kernel_id: str,
        *,
        name: str | None = None,
        note: str | None = None,
        pin: bool = False,
        request_id: str | None = None,
    ) -> ServerJob:
        """Begin a save and return its job at once.

        The same `request_id` never saves twice and answers the same job.
        Raises what is known to be wrong before anything starts: `KernelNotFound`,
        `NotOurKernel`, `UsageError` (name), `NameTaken`.
        """
        if request_id is not None:
            known = (self._jobs.get(checked_request_id(request_id))
                     or await self._backend.run(self._made_before, kernel_id, request_id))
            if known is not None:
                return known
        record = await our_record(self._backend, self._kernels, kernel_id)
        if name is not None:
            name = checked_name(name)
            await self._backend.run(self._refuse_taken, name)
        job = Job(request_id or uuid.uuid4().hex, "save")
        entry = self._jobs.add(job, record.kernel_id)
        act = Act(self._events, "save", job.id, record.kernel_id)
        act.started()
        arguments = {"name": name, "note": note, "pin": pin, "trigger": "api"}
        task = asyncio.create_task(self._follow(entry, act, record, arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    def _made_before(self, kernel_id: str, request_id: str) -> ServerJob | None:
        """Return the finished job of a request whose answer another server owed, if it was.

        Looked for before its name is: the checkpoint that it made bears it.
        """
        made = checkpoint_id(checked_kernel_id(kernel_id), request_id)
        try:
            manifest = self._backend.store().resolve(made)
        except NotFound:
            return None
        return ServerJob(Job(request_id, "save", "done", result=manifest.to_dict(),
                             warnings=list(manifest.warnings)), kernel_id)

    async def _follow(
        self, entry: ServerJob, act: Act, record: Record, arguments: dict[str, Any]
    ) -> None:
        loop = asyncio.get_running_loop()

        def on_progress(seen: Job) -> None:
            loop.call_soon_threadsafe(self._note_progress, entry.job, act, seen)

        try:
            manifest = await self._backend.run(
                self._backend.save, record, request_id=entry.job.id, on_progress=on_progress,
                document=await self.document_of(record), **arguments)
        except CheckpointError as error:
            self._fail(entry.job, act, error)
        except Exception as error:
            self._log.exception("Saving kernel %s failed unexpectedly.", record.kernel_id)
            self._fail(entry.job, act, DumpFailed(
                f"Saving failed unexpectedly: {error!r}.", "The server's log has the details."))
        else:
            self._succeed(entry.job, act, manifest)

    async def document_of(self, record: Record) -> dict[str, Any] | None:
        """Return the notebook for contents managers that keep no files, else None."""
        session = await session_of_kernel(self._sessions, record.kernel_id)
        if session is None or session["type"] != "notebook":
            return None
        content = await self._documents.content_for_save(session["path"])
        if content is None:
            return None
        return {"path": session["path"], "content_base64": base64.b64encode(content).decode()}

    def _refuse_taken(self, name: str) -> None:
        self._backend.store().check_name_free(name)

    @staticmethod
    def _note_progress(job: Job, act: Act, seen: Job) -> None:
        if job.finished or seen.finished:
            return
        job.state, job.phase = seen.state, seen.phase
        job.done_bytes, job.total_bytes = seen.done_bytes, seen.total_bytes
        act.progressed(seen)

    @staticmethod
    def _fail(job: Job, act: Act, error: CheckpointError) -> None:
        job.error, job.state = error, "failed"
        act.failed(error)

    @staticmethod
    def _succeed(job: Job, act: Act, manifest: Manifest) -> None:
        job.result, job.state = manifest.to_dict(), "done"
        job.warnings = list(manifest.warnings)
        act.checkpoint_id = manifest.id
        act.succeeded()
