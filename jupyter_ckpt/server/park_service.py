"""Parking kernels on behalf of the server: before a cull, and before it ends."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Awaitable, Callable

from ..errors import CheckpointError, DumpFailed
from ..manifest import Manifest
from ..record import Record
from .backend import Backend
from .events import Act, EventStream
from .save_service import SaveService


class ParkService:
    """Saves a kernel that shall end so that its notebook brings it back."""

    def __init__(
        self, backend: Backend, events: EventStream, saves: SaveService, log: logging.Logger
    ) -> None:
        self._backend = backend
        self._events = events
        self._saves = saves
        self._log = log

    async def secure(
        self, record: Record, trigger: str, deadline_s: float | None = None
    ) -> Parking | None:
        """Make sure that a checkpoint holds the kernel's state; None: do not end it.

        Nothing raises for a save that failed: that is logged and told as an
        event, and the kernel goes on.
        """
        act = Act(self._events, "park", uuid.uuid4().hex, record.kernel_id)
        act.started()
        try:
            manifest = await self._backend.run(
                self._backend.secure, record, trigger=trigger, deadline_s=deadline_s,
                document=await self._saves.document_of(record))
        except Exception as caught:  # of a contents manager, too
            error = _explained(caught)
            self._log.error("Kernel %s could not be saved and is left running: %s %s",
                            record.kernel_id, error.message, error.hint,
                            exc_info=None if error is caught else caught)
            act.failed(error)
            return None
        return Parking(self._backend, act, record, manifest, self._log)


class Parking:
    """A kernel that is safe to end. `mark` comes just before its end, `undo` if it lives on."""

    def __init__(self, backend: Backend, act: Act, record: Record, manifest: Manifest | None,
                 log: logging.Logger) -> None:
        self._backend, self._act, self._log = backend, act, log
        self.record, self.manifest = record, manifest
        """``manifest`` is None for a kernel that never did anything."""

    async def mark(self, is_unused: Callable[[], Awaitable[bool]]) -> bool:
        """Promise that opening the notebook brings it back; False: it must not be ended.

        That is so, too, when somebody has used it since it was saved: asked before,
        and when the promise is made, which waits for whoever changes the store.

        Without a notebook (a console, a kernel started by a program, a file that
        is gone) nothing is promised: its checkpoint is an ordinary one then.
        """
        if not await is_unused():
            self._drop()
            return False
        if self.manifest is None:
            self._act.succeeded("Nothing was done in this session, so nothing was saved.")
            return True
        if not _has_notebook(self.manifest):
            how = (f"It has no notebook to open: 'jupyter ckpt restore {self.manifest.id}' "
                   "brings it back.")
            self._log.info("Kernel %s is saved as checkpoint %s. %s",
                           self.record.kernel_id, self.manifest.id, how)
            self._act.checkpoint_id = self.manifest.id
            self._act.succeeded(how)
            return True
        try:
            await self._backend.run(self._backend.mark_parked, self.manifest.id)
        except (CheckpointError, OSError) as caught:
            error = _explained(caught)
            self._log.error("Kernel %s is left running: %s %s",
                            self.record.kernel_id, error.message, error.hint)
            self._act.failed(error)
            return False
        if not await is_unused():
            await self.undo()
            self._drop()
            return False
        self._log.info("Kernel %s is saved as checkpoint %s; opening its notebook brings it back.",
                       self.record.kernel_id, self.manifest.id)
        self._act.checkpoint_id = self.manifest.id
        self._act.succeeded()
        return True

    async def undo(self) -> None:
        """Take the promise back: the kernel was not ended after all.

        One that stays is logged; while the kernel lives nobody is given what it promises.
        """
        if self.manifest is None:
            return
        try:
            await self._backend.run(self._backend.unmark_parked, self.manifest.id)
        except (CheckpointError, OSError) as error:
            self._log.error("Checkpoint %s stays marked as parked: %s", self.manifest.id, error)

    def _drop(self) -> None:
        """Tell that the kernel is in use again and is not ended."""
        self._log.info("Kernel %s is in use again and goes on.", self.record.kernel_id)
        self._act.checkpoint_id = self.manifest.id if self.manifest else None
        self._act.succeeded("The session is in use again and goes on.")


def _has_notebook(manifest: Manifest) -> bool:
    """Tell whether there is a notebook whose opening can bring a checkpoint back."""
    path = (manifest.notebook or {}).get("path")
    # A relative one is no file: it belongs to a contents manager that keeps none.
    return bool(path) and (not os.path.isabs(str(path)) or os.path.exists(str(path)))


def _explained(error: Exception) -> CheckpointError:
    """Return `error`, or what a disk or something else that failed on the way means."""
    if isinstance(error, CheckpointError):
        return error
    if isinstance(error, OSError):
        return DumpFailed(f"Saving failed: {error}.", "Check the disk, then save again.")
    return DumpFailed(f"Saving failed unexpectedly: {error!r}.",
                      "The server's log has the details.")
