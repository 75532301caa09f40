"""The REST routes under ``/api/ckpt/``: thin, authenticated and authorised.

Every answer is JSON. An error is ``{"message", "error": {code, id, message,
hint}}`` with the HTTP status of its class.
"""

from __future__ import annotations

import os
from typing import Any

from jupyter_server.auth.decorator import authorized
from tornado import web

from .errors import CheckpointError, IntegrityError, NotFound, UsageError
from .manifest import checked_name, checked_note, checked_reference
from .plan import read_changes
from .server.documents import Documents, saved_document
from .server.events import Act
from .server.handling import CheckpointHandler, answering
from .server.lookup import our_record
from .server.restore_service import RestoreRequest


class DoctorHandler(CheckpointHandler):
    """What works here."""

    @web.authenticated
    @authorized
    @answering
    async def get(self) -> None:
        self.answer(await self.services.backend.run(self.services.backend.examine))


class KernelsHandler(CheckpointHandler):
    """Kernels with an agent."""

    @web.authenticated
    @authorized
    @answering
    async def get(self) -> None:
        self.answer(await self.services.backend.run(self.services.backend.list_kernels))


class KernelSaveHandler(CheckpointHandler):
    """Saves of one kernel."""

    @web.authenticated
    @authorized
    @answering
    async def post(self, kernel_id: str) -> None:
        """Start a save: 202 with its job."""
        asked = self.body(name=(str, type(None)), note=(str, type(None)),
                          pin=(bool,), request_id=(str,))
        checked_note(asked.get("note"))
        entry = await self.services.saves.start(kernel_id, **asked)
        self.set_status(202)
        self.answer(entry.to_dict())


class KernelRunningHandler(CheckpointHandler):
    """What runs in a kernel now."""

    @web.authenticated
    @authorized
    @answering
    async def get(self, kernel_id: str) -> None:
        backend = self.services.backend
        record = await our_record(backend, self.kernel_manager, kernel_id)
        found = await backend.run(backend.running, record)
        self.answer({"busy": found.get("busy"), "running": found.get("running"),
                     "recent": found.get("recent", [])})


class KernelScheduleHandler(CheckpointHandler):
    """When a kernel is saved by itself."""

    @web.authenticated
    @authorized
    @answering
    async def get(self, kernel_id: str) -> None:
        """Tell when the kernel is saved by itself."""
        await self._answer_schedule(kernel_id, None)

    @web.authenticated
    @authorized
    @answering
    async def put(self, kernel_id: str) -> None:
        """Change it: what is left out stays, null takes it away, `off` ends it."""
        asked = self.body(every_s=(int, float, type(None)), every=(str, type(None)),
                          cells=(int, type(None)), keep=(int, type(None)),
                          keep_hourly=(int, type(None)), keep_daily=(int, type(None)),
                          off=(bool,))
        await self._answer_schedule(kernel_id, read_changes(asked))

    async def _answer_schedule(self, kernel_id: str, changes: dict[str, Any] | None) -> None:
        backend = self.services.backend
        record = await our_record(backend, self.kernel_manager, kernel_id)
        self.answer(await backend.run(backend.schedule_of, record, changes))


class KernelForkHandler(CheckpointHandler):
    """Copies of a running session."""

    @web.authenticated
    @authorized
    @answering
    async def post(self, kernel_id: str) -> None:
        asked = self.body(n=(int,))
        self.answer(await self.services.forks.fork(kernel_id, asked.get("n", 1)))


class JobHandler(CheckpointHandler):
    """How far a save is."""

    @web.authenticated
    @authorized
    @answering
    async def get(self, job_id: str) -> None:
        self.answer((await self.services.jobs.find(job_id)).to_dict())


class CheckpointsHandler(CheckpointHandler):
    """All checkpoints, newest first."""

    @web.authenticated
    @authorized
    @answering
    async def get(self) -> None:
        """List them; ``?notebook=`` (path as the server spells it, or a file), ``?kernel_id=``.

        A blank filter is none.
        """
        notebook = self.get_query_argument("notebook", None)
        kernel_id = self.get_query_argument("kernel_id", None) or None

        def listed() -> list[dict[str, Any]]:
            wanted = _Files(self.services.documents, notebook)
            return [manifest.to_dict() for manifest in self.services.backend.manifests()
                    if kernel_id in (None, manifest.kernel.get("id"))
                    and (manifest.notebook or {}).get("path") in wanted]

        self.answer(await self.services.backend.run(listed))


class OneCheckpointHandler(CheckpointHandler):
    """One checkpoint."""

    @web.authenticated
    @authorized
    @answering
    async def get(self, reference: str) -> None:
        self.answer((await self.manifest(reference)).to_dict())

    @web.authenticated
    @authorized
    @answering
    async def patch(self, reference: str) -> None:
        """Change name, note or pin; only what is in the body."""
        asked = self.body(name=(str, type(None)), note=(str, type(None)), pinned=(bool,))
        if asked.get("name") is not None:
            asked["name"] = checked_name(asked["name"])
        checked_note(asked.get("note"))
        backend = self.services.backend
        manifest = await self.manifest(reference)
        changed = await backend.run(lambda: backend.store().update(manifest.id, **asked))
        self.answer(changed.to_dict())

    @web.authenticated
    @authorized
    @answering
    async def delete(self, reference: str) -> None:
        backend = self.services.backend
        checked_reference(reference)
        # By id, not by manifest: a damaged checkpoint must be removable, too.
        checkpoint_id = await backend.run(lambda: backend.store().resolve_id(reference))
        act = Act(self.services.events, "delete", f"delete-{checkpoint_id}",
                  await self._kernel_of(checkpoint_id))
        act.checkpoint_id = checkpoint_id
        try:
            await backend.run(lambda: backend.store().remove(checkpoint_id))
        except CheckpointError as error:
            act.failed(error)
            raise
        act.succeeded()
        self.set_status(204)
        self.finish()


    async def _kernel_of(self, checkpoint_id: str) -> str:
        try:
            return str((await self.manifest(checkpoint_id)).kernel.get("id", ""))
        except IntegrityError:
            return ""


class OffersHandler(CheckpointHandler):
    """Sessions that ended unplanned and can be brought back."""

    @web.authenticated
    @authorized
    @answering
    async def get(self) -> None:
        """List the offers, the latest first; ``?notebook=`` like for checkpoints."""
        notebook = self.get_query_argument("notebook", None)

        def listed() -> list[dict[str, Any]]:
            wanted = _Files(self.services.documents, notebook)
            return [offer.to_dict() for offer in self.services.backend.offers()
                    if offer.notebook in wanted]

        self.answer(await self.services.backend.run(listed))


class OneOfferHandler(CheckpointHandler):
    """One offer."""

    @web.authenticated
    @authorized
    @answering
    async def delete(self, kernel_id: str) -> None:
        """Dismiss it; the checkpoint stays."""
        backend = self.services.backend
        if not await backend.run(backend.dismiss_offer, kernel_id):
            raise NotFound(f"There is no offer of kernel {kernel_id}.")
        self.set_status(204)
        self.finish()


class CheckpointNotebookHandler(CheckpointHandler):
    """The notebook document as it was saved with a checkpoint."""

    @web.authenticated
    @authorized
    @answering
    async def get(self, reference: str) -> None:
        backend = self.services.backend
        manifest = await self.manifest(reference)
        document = await backend.run(lambda: saved_document(backend.store(), manifest))
        if document is None:
            raise NotFound(f"Checkpoint {manifest.id} holds no notebook document.")
        self.answer(document)


class RestoreHandler(CheckpointHandler):
    """Bringing a checkpoint back."""

    @web.authenticated
    @authorized
    @answering
    async def post(self, reference: str) -> None:
        """Restore; answers when the kernel lives (200)."""
        checked_reference(reference)
        asked = self.body(mode=(str,), kernel_id=(str, type(None)),
                          path=(str, type(None)), files=(str, type(None)),
                          wait_s=(int, float, type(None)))
        if "mode" not in asked:
            raise UsageError("The field 'mode' is missing.", "It is 'in-place' or 'new'.")
        answer = await self.services.restores.restore(reference, RestoreRequest(**asked))
        answer["server_url"] = self.serverapp.connection_url if self.serverapp else None
        self.answer(answer)


class _Files:
    """The files that `notebook` may mean: a file, or a path of the server; all without one.

    Used in worker threads only: a file system that is gone hangs whoever asks for a path.
    """

    def __init__(self, documents: Documents, notebook: str | None) -> None:
        self._wanted = {os.path.realpath(path) for path in (notebook, documents.os_path(notebook))
                        if path} if notebook else None

    def __contains__(self, path: str | None) -> bool:
        """Tell whether the file at `path`, however it is spelled, is one of them."""
        return self._wanted is None or (bool(path) and os.path.realpath(str(path)) in self._wanted)


_KERNEL = r"api/ckpt/kernels/([^/]+)"
_CHECKPOINT = r"api/ckpt/checkpoints/([^/]+)"
ROUTES: list[tuple[str, type[CheckpointHandler]]] = [
    (r"api/ckpt/doctor", DoctorHandler),
    (r"api/ckpt/kernels", KernelsHandler),
    (_KERNEL + r"/checkpoints", KernelSaveHandler),
    (_KERNEL + r"/running", KernelRunningHandler),
    (_KERNEL + r"/schedule", KernelScheduleHandler),
    (_KERNEL + r"/fork", KernelForkHandler),
    (r"api/ckpt/jobs/([^/]+)", JobHandler),
    (r"api/ckpt/checkpoints", CheckpointsHandler),
    (_CHECKPOINT, OneCheckpointHandler),
    (r"api/ckpt/offers", OffersHandler),
    (r"api/ckpt/offers/([^/]+)", OneOfferHandler),
    (_CHECKPOINT + r"/notebook", CheckpointNotebookHandler),
    (_CHECKPOINT + r"/restore", RestoreHandler),
]
