"""Restoring a checkpoint into Jupyter: in place, or as a new notebook."""

from __future__ import annotations

import asyncio
import logging
import os
import posixpath
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..errors import (
    CheckpointError,
    KernelNotFound,
    RestoreFailed,
    RestoreRefused,
    UsageError,
    quoted,
)
from ..faults import point
from ..manifest import Manifest, check_same_kernel
from ..procfs import ProcessId
from ..protocol import Job, checked_kernel_id, checked_wait_s
from ..record import Record
from .backend import Backend
from .documents import Documents, leads_out
from .events import Act, EventStream
from .lookup import await_launch, session_of_kernel, session_of_path
from .saved_documents import SavedDocuments
from .showing import open_kernel
from .swap import KernelSwap

MODES = ("in-place", "new")
FILES = ("put-back", "keep", "abort")


@dataclass(frozen=True)
class RestoreRequest:
    """What the browser or the CLI asks for.

    ``path`` is that of a notebook: in place of whose kernel, or under which name a new
    one is made (if nothing has it; else beside it).
    """

    mode: str
    kernel_id: str | None = None
    path: str | None = None
    files: str | None = None
    wait_s: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"The mode of a restore is one of {', '.join(MODES)}.")
        if self.files not in (*FILES, None):
            raise UsageError(f"What to do with files is one of {', '.join(FILES)}.")
        if self.kernel_id is not None:
            checked_kernel_id(self.kernel_id)
        checked_wait_s(self.wait_s)
        if self.path is not None and leads_out(self.path):
            raise UsageError(f"The path {quoted(self.path)} leads out of the server's folder.")


class RestoreService:
    """Brings checkpoints back behind Jupyter's kernels and sessions."""

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
        self._saved = SavedDocuments(backend, documents, log)
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._log = log
        # Weak: a lock goes with the last who holds or awaits it, or each kernel would leave one.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def restore(self, reference: str, request: RestoreRequest) -> dict[str, Any]:
        """Restore and return {kernel_id, connection_file, notebook, session, warnings, running}.

        Raises `CheckpointError` subclasses; then everything is as before, or
        the error says what is not.
        """
        manifest = await self._backend.run(lambda: self._backend.store().resolve(reference))
        if request.mode == "new":
            kernel_id = str(uuid.uuid4())
        else:
            kernel_id = await self._target(manifest, request)
        act = Act(self._events, "restore", uuid.uuid4().hex, kernel_id)
        act.checkpoint_id = manifest.id
        act.started()
        try:
            async with self._locks.setdefault(kernel_id, asyncio.Lock()):
                answer = await self._choose(manifest, kernel_id, request, act)
        except CheckpointError as error:
            act.failed(error)
            raise
        except Exception as error:
            self._log.exception("Restoring checkpoint %s failed unexpectedly.", manifest.id)
            failure = RestoreFailed(f"Restoring failed unexpectedly: {error!r}.",
                                    "The server's log has the details.")
            act.failed(failure)
            raise failure from error
        act.succeeded()
        return answer

    async def _choose(
        self, manifest: Manifest, kernel_id: str, request: RestoreRequest, act: Act
    ) -> dict[str, Any]:
        if request.mode == "new":
            return await self._as_new(manifest, kernel_id, request, act)
        if kernel_id in self._kernels:
            answer = await self._swap(manifest, kernel_id, request, act)
        else:
            answer = await self._revive(manifest, kernel_id, request, act)
        if manifest.parked:  # it is back, by hand
            await self._backend.run(self._backend.unmark_parked, manifest.id)
        return answer

    # -- in place ---------------------------------------------------------------
    async def _target(self, manifest: Manifest, request: RestoreRequest) -> str:
        """Return the kernel id to restore behind: see ARCHITECTURE, REST.

        A kernel that is asked for must run here, or be the one that is chosen
        without asking: the checkpoint's own, which is then brought back.
        """
        if request.kernel_id in self._kernels:
            return str(request.kernel_id)
        chosen = await self._own_target(manifest, request)
        if request.kernel_id not in (None, chosen):
            raise KernelNotFound(f"No kernel {request.kernel_id} runs in this server.",
                                 "Leave the kernel out to restore into a new session.")
        return chosen

    async def _own_target(self, manifest: Manifest, request: RestoreRequest) -> str:
        own = str(manifest.kernel["id"])
        if own in self._kernels and not request.path:
            return own
        path = self._notebook(manifest, request)
        session = await session_of_path(self._sessions, path) if path else None
        return str(session["kernel"]["id"]) if session else own

    async def _swap(
        self, manifest: Manifest, kernel_id: str, request: RestoreRequest, act: Act
    ) -> dict[str, Any]:
        """Exchange the process behind a kernel that Jupyter shows."""
        await await_launch(self._kernels, kernel_id)
        swap = KernelSwap(self._kernels, kernel_id)
        check_same_kernel(manifest, str(self._kernels.get_kernel(kernel_id).kernel_name))
        session = await session_of_kernel(self._sessions, kernel_id)
        try:
            swap.begin()
            point("swap.begun")
            result = await self._run_restore(
                manifest, act, kernel_id=kernel_id, in_place=True, files=request.files,
                wait_s=request.wait_s,
                connection=swap.connection, connection_file=swap.connection_file,
                notebook=self._file_of(session), session=self._backend.session_of(kernel_id)[0])
        except BaseException:
            # The agent has put the old state back, which is a new process, too.
            try:
                await self._end_swap(swap, kernel_id)
            except Exception:  # what the user asked for failed before: that is told
                self._log.exception("Kernel %s could not be shown again as it was.", kernel_id)
            raise
        running = await self._end_swap(swap, kernel_id)
        return self._answer(result, session, running, await self._put_back(manifest, session))

    async def _put_back(self, manifest: Manifest, session: dict[str, Any] | None) -> list[str]:
        """Put the notebook of a session back if it is gone and the checkpoint is one of it."""
        file = self._file_of(session)
        if session is None or file is None or (manifest.notebook or {}).get("path") != file:
            return []
        return await self._saved.put_back(manifest, session["path"])

    async def _end_swap(self, swap: KernelSwap, kernel_id: str) -> dict[str, Any] | None:
        """Show whatever lives now and have it watched again; return what runs in it.

        Raises what went wrong meanwhile, after all of it was tried.
        """
        record: Record | None = None
        running: dict[str, Any] | None = None
        failed: Exception | None = None
        try:
            point("swap.restored")
            # The agent may have died while nobody lived: the next one brings the old state
            # back. Without it a fresh kernel would start here, and take its place.
            await self._backend.run(self._backend.finish_unfinished)
        except Exception as error:
            failed = error
        try:
            record, _ = await self._living(kernel_id, ask=False)
            await swap.reconnected(record)
            record, running = await self._living(kernel_id)
        except Exception as error:
            failed = failed or error
        await swap.finish(record, running)
        point("swap.done")
        if failed is not None:
            raise failed
        return running

    async def _revive(
        self, manifest: Manifest, kernel_id: str, request: RestoreRequest, act: Act
    ) -> dict[str, Any]:
        """Restore a kernel that this server does not show, and open its session."""
        alive = await self._refuse_foreign(kernel_id)
        path = self._notebook(manifest, request)
        file = self._documents.os_path(path) if path else None
        result = await self._run_restore(
            manifest, act, kernel_id=kernel_id, in_place=alive, files=request.files,
            wait_s=request.wait_s, notebook=str(file) if file else None)
        told = await self._saved.put_back(manifest, path) if path else []
        return await self._open(result, kernel_id, path, told)

    async def _refuse_foreign(self, kernel_id: str) -> bool:
        """Tell whether the kernel lives without a server; refuse one of another server."""
        record, _ = await self._living(kernel_id, ask=False)
        if record is None:
            return False
        owner = record.owner or {}
        identity = ProcessId.from_dict(owner) if "start_time" in owner else None
        ours = identity is not None and identity.pid == os.getpid()
        if identity is not None and identity.is_alive() and not ours:
            raise RestoreRefused(
                f"Kernel {kernel_id} is shown by another server (process {identity.pid}).",
                "Restore there, or restore as a new notebook here.")
        return True

    # -- as a new notebook ---------------------------------------------------------
    async def _as_new(
        self, manifest: Manifest, kernel_id: str, request: RestoreRequest, act: Act
    ) -> dict[str, Any]:
        original = self._notebook(manifest, request) or "Untitled.ipynb"
        if request.path and not await self._documents.has_folder(original):
            raise UsageError(f"The server has no folder {posixpath.dirname(original)}.")
        document, told = await self._saved.for_copy(manifest, original)
        # Not where a page shows a notebook whose file is gone: it goes on with its own kernel.
        free = request.path and await session_of_path(self._sessions, original) is None
        copy = await self._documents.write_copy(
            original, document, "restored", wanted=original if free else None)
        try:
            file = self._documents.os_path(copy)
            result = await self._run_restore(
                manifest, act, kernel_id=kernel_id, in_place=False, files=request.files,
                wait_s=request.wait_s,
                notebook=str(file) if file else None)
            return await self._open(result, kernel_id, copy, told)
        except BaseException:
            await self._documents.remove(copy)
            raise

    # -- common -----------------------------------------------------------------
    async def _run_restore(self, manifest: Manifest, act: Act, **arguments: Any) -> dict[str, Any]:
        loop = asyncio.get_running_loop()

        def on_progress(job: Job) -> None:
            loop.call_soon_threadsafe(act.progressed, job)

        return await self._backend.run(
            self._backend.restore, manifest, on_progress=on_progress, **arguments)

    async def _open(
        self, result: dict[str, Any], kernel_id: str, path: str | None, told: list[str]
    ) -> dict[str, Any]:
        """Show a restored kernel in Jupyter, with a session when it has a notebook."""
        record, running = await self._living(kernel_id)
        if record is None:
            raise RestoreFailed(f"The restored kernel {kernel_id} has ended.",
                                "Its log is kept with the checkpoint.")
        session = await open_kernel(
            self._kernels, self._sessions, record, path, running, self._backend)
        return self._answer(result, session, running, told)

    async def _living(
        self, kernel_id: str, ask: bool = True
    ) -> tuple[Record | None, dict[str, Any] | None]:
        """Return the record of a kernel if it lives, and what runs in it."""
        try:
            record = await self._backend.run(self._backend.record, kernel_id)
            if not record.is_alive():
                return None, None
            if not ask:
                return record, None
        except CheckpointError:
            return None, None
        try:
            return record, await self._backend.run(self._backend.running, record)
        except CheckpointError as error:
            self._log.warning("What kernel %s runs is unknown: %s", kernel_id, error)
            return record, None

    def _answer(
        self,
        result: dict[str, Any],
        session: dict[str, Any] | None,
        running: dict[str, Any] | None,
        told: list[str],
    ) -> dict[str, Any]:
        """Return what is answered; what was `told` about the notebook comes first."""
        return {
            "kernel_id": result["kernel_id"],
            "connection_file": result["connection_file"],
            "notebook": session["path"] if session else None,
            "session": session,
            "warnings": [*told, *result.get("warnings", ())],
            "running": (running or {}).get("running"),
        }

    def _notebook(self, manifest: Manifest, request: RestoreRequest) -> str | None:
        """Return the API path of the checkpoint's notebook; one elsewhere goes to the root."""
        if request.path is not None:
            return request.path.strip("/") or None
        path = (manifest.notebook or {}).get("path")
        if not path:
            return None
        return self._documents.api_path(path) or posixpath.basename(path)

    def _file_of(self, session: dict[str, Any] | None) -> str | None:
        if session is None or session["type"] != "notebook":
            return None
        path: Path | None = self._documents.os_path(session["path"])
        return str(path) if path else None
