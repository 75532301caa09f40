"""Forking: independent copies of a running session, each with its notebook."""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from typing import Any

from ..errors import CheckpointError, DumpFailed, KernelNotFound, LaunchFailed, UsageError
from ..protocol import Job
from .backend import Backend
from .documents import Documents
from .events import Act, EventStream
from .lookup import our_record, session_of_kernel
from .showing import open_kernel

MAX_FORKS = 16


class ForkService:
    """Makes copies of a kernel and shows each with a copy of the notebook."""

    def __init__(
        self,
        backend: Backend,
        events: EventStream,
        documents: Documents,
        kernel_manager: Any,
        session_manager: Any,
        log: logging.Logger,
    ) -> None:
        self._backend = backend
        self._events = events
        self._documents = documents
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._log = log

    async def fork(self, kernel_id: str, copies: int) -> list[dict[str, Any]]:
        """Return one {kernel_id, connection_file, notebook, session} for each copy.

        Raises `UsageError` for a senseless number, what the agent reports, and
        `LaunchFailed` when Jupyter cannot show a copy: those that it shows by
        then stay, the others are ended.
        """
        if not 1 <= copies <= MAX_FORKS:
            raise UsageError(f"Between 1 and {MAX_FORKS} copies can be made at once.")
        record = await our_record(self._backend, self._kernels, kernel_id)
        act = Act(self._events, "fork", uuid.uuid4().hex, kernel_id, jobs=1 + copies)
        act.started()
        loop = asyncio.get_running_loop()

        def on_progress(job: Job) -> None:
            loop.call_soon_threadsafe(act.progressed, job)

        try:
            forks = await self._backend.run(self._backend.fork, record, copies, on_progress)
            shown = await self._show_all(forks, kernel_id)
        except CheckpointError as error:
            act.failed(error)
            raise
        except Exception as error:
            self._log.exception("Forking kernel %s failed unexpectedly.", kernel_id)
            failure = DumpFailed(f"Forking failed unexpectedly: {error!r}.",
                                 "The server's log has the details.")
            act.failed(failure)
            raise failure from error
        act.succeeded()
        return shown

    async def _show_all(
        self, forks: list[dict[str, Any]], original_id: str
    ) -> list[dict[str, Any]]:
        """Show every copy; when one cannot be shown, it and those after it are ended."""
        shown: list[dict[str, Any]] = []
        try:
            for fork in forks:
                shown.append(await self._show(fork, original_id))
        except BaseException as error:
            for fork in forks[len(shown):]:
                await self._end(fork["kernel_id"])
            if not isinstance(error, Exception):
                raise
            self._log.warning("A copy of kernel %s could not be shown.", original_id, exc_info=True)
            what = str(error) or repr(error)
            left = (f"{len(shown)} of {len(forks)} copies are there, the others were ended."
                    if shown else "The session itself goes on.")
            raise LaunchFailed(f"A copy of the session could not be shown: {what}", left) from error
        return shown

    async def _show(self, fork: dict[str, Any], original_id: str) -> dict[str, Any]:
        """Show one copy; on failure the copy of the notebook is removed again."""
        session = await session_of_kernel(self._sessions, original_id)
        copy: str | None = None
        if session is not None and session["type"] == "notebook":
            copy = await self._copy(session["path"])
        try:
            record = await self._backend.run(self._backend.record, fork["kernel_id"])
            running = await self._backend.run(self._backend.running, record)
            model = await open_kernel(
                self._kernels, self._sessions, record, copy, running, self._backend)
        except BaseException:
            if copy is not None:
                with suppress(Exception):  # what went wrong first is told
                    await self._documents.remove(copy)
            raise
        return {"kernel_id": fork["kernel_id"], "connection_file": fork["connection_file"],
                "notebook": copy, "session": model}

    async def _end(self, kernel_id: str) -> None:
        """End a copy that nobody would see; what keeps it alive is logged."""
        try:
            record = await self._backend.run(self._backend.record, kernel_id)
            await self._backend.run(self._backend.stop, record)
        except KernelNotFound:
            return  # it ended when it could not be shown
        except Exception:
            self._log.error("The copy %s of a kernel runs unseen: 'jupyter ckpt stop %s' ends it.",
                            kernel_id, kernel_id, exc_info=True)

    async def _copy(self, path: str) -> str | None:
        """Copy the session's notebook; None where it is gone: the kernel is copied all the same."""
        if not await self._documents.exists(path):
            return None
        return await self._documents.write_copy(path, await self._documents.read(path), "fork")
