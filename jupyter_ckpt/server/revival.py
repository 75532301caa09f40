"""Revival: a parked session comes back instead of a fresh kernel being started."""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..faults import point
from ..manifest import Manifest
from ..offers import Offer
from ..protocol import Job
from ..record import Record
from .backend import Backend
from .events import Act


@dataclass(frozen=True)
class Start:
    """A kernel that Jupyter is about to start, with the ports and key chosen for it."""

    kernel_id: str
    kernel_name: str
    notebook: str | None
    connection: dict[str, Any]
    connection_file: str


class Revival:
    """Brings a session back as the kernel that Jupyter wanted to start."""

    def __init__(self, backend: Backend, log: logging.Logger) -> None:
        self._backend = backend
        self._log = log

    async def of_parked(self, start: Start) -> Record | None:
        """Restore what is parked for the notebook; None: a fresh kernel is to be started.

        Never silently: a restore that fails is logged and told as an event.
        """
        if start.notebook is None:
            return None
        try:
            manifest = await self._backend.run(
                self._backend.parked_checkpoint, start.notebook, start.kernel_name)
        except CheckpointError as error:
            self._log.error("Whether a session of %s is parked is unknown: %s %s",
                            start.notebook, error.message, error.hint)
            return None
        if manifest is None:
            return None
        record = await self.restore(manifest, start, "parked")
        if record is None:
            offer = await self._backend.run(self._backend.offer, str(manifest.kernel.get("id")))
            if offer is not None and offer.checkpoint == manifest.id:
                self._tell(offer, start)
        return record

    async def of_crashed(self, start: Start) -> Record | None:
        """Tell of a crash; with ``on_crash`` = restore bring the last checkpoint back.

        At most once for each checkpoint, and not too often within a time: a crash
        that repeats itself must not loop. None: a fresh kernel is to be started.
        """
        offer = await self._backend.run(self._backend.offer, start.kernel_id)
        if offer is None:
            return None
        self._tell(offer, start)
        if self._backend.on_crash != "restore":
            return None
        try:
            manifest = await self._backend.run(self._backend.crash_restorable, offer)
            point("revive.attempted")
        except (CheckpointError, OSError) as error:
            self._log.error("Kernel %s (%s) is not restored: %s",
                            start.kernel_id, offer.how, error)
            return None
        if manifest is None:
            self._log.warning("Kernel %s (%s) starts fresh: it has no checkpoint.",
                              start.kernel_id, offer.how)
            return None
        return await self.restore(manifest, replace(start, notebook=offer.notebook), "crash")

    def _tell(self, offer: Offer, start: Start) -> None:
        self._backend.events.emit(
            "offer", "succeeded", job_id=uuid.uuid4().hex, kernel_id=start.kernel_id,
            checkpoint_id=offer.checkpoint, checkpoint_created_at=offer.checkpoint_created_at,
            notebook=_shown(offer.notebook), how=offer.how)

    async def restore(self, manifest: Manifest, start: Start, reason: str) -> Record | None:
        """Restore `manifest` as the kernel of `start` and tell so; None when it failed."""
        act = self._act(manifest, start, reason)
        act.started()
        loop = asyncio.get_running_loop()

        def on_progress(job: Job) -> None:
            loop.call_soon_threadsafe(act.progressed, job)

        try:
            result = await self._backend.run(
                self._backend.revive, manifest, parked=reason == "parked",
                kernel_id=start.kernel_id,
                connection=start.connection, connection_file=start.connection_file,
                notebook=start.notebook, session=self._backend.session_of(start.kernel_id)[0],
                on_progress=on_progress)
            record = await self._backend.run(self._backend.record, start.kernel_id)
        except CheckpointError as error:
            act.failed(error)
            self._log.error(
                "The session of %s could not be brought back from checkpoint %s, so a fresh kernel "
                "is started: %s %s", start.notebook or start.kernel_id, manifest.id,
                error.message, error.hint)
            return None
        point("revive.restored")
        warnings = [str(text) for text in result.get("warnings") or ()]
        for text in warnings:
            self._log.warning("Session of %s: %s", start.notebook or start.kernel_id, text)
        self._log.info("The session of %s is restored from checkpoint %s of %s (%s).",
                       start.notebook or start.kernel_id, manifest.id, manifest.created_at,
                       manifest.trigger)
        act.succeeded(" ".join(warnings) or None)
        return record

    def _act(self, manifest: Manifest, start: Start, reason: str) -> Act:
        act = Act(self._backend.events, "revive", uuid.uuid4().hex, start.kernel_id,
                  reason=reason, trigger=manifest.trigger,
                  notebook=_shown(start.notebook) or "", checkpoint_created_at=manifest.created_at)
        act.checkpoint_id = manifest.id
        return act


def _shown(notebook: str | None) -> str | None:
    return None if notebook is None else Path(notebook).name
