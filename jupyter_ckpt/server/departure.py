"""What becomes of the kernels when the server is shut down on purpose."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ..errors import CheckpointError
from ..provisioner import CheckpointProvisioner
from ..record import Record
from .backend import Backend

SETTLE_DEADLINE_S = 20.0
POLICIES = ("save-and-stop", "leave-running", "stop")


class Departure:
    """Applies ``on_shutdown`` before the server ends its kernels."""

    def __init__(self, backend: Backend, kernel_manager: Any, log: logging.Logger) -> None:
        self._backend = backend
        self._kernels = kernel_manager
        self._log = log

    async def leave(self, policy: str) -> None:
        """Let go of the kernels that shall live on; the server ends the rest.

        ``save-and-stop`` leaves a kernel running whose save failed: nothing is
        ended before what replaces it is safe.
        """
        await self._settle()
        ours = self._ours()
        if policy == "stop" or not ours:
            return
        if policy == "save-and-stop":
            saved = await asyncio.gather(*(self._save(record) for record in ours.values()))
            ours = {key: record for (key, record), done in zip(ours.items(), saved) if not done}
        for kernel_id in ours:
            self._let_go(kernel_id)
        if ours:
            self._log.info("Left %d kernels running; the next server in this folder shows them.",
                           len(ours))

    async def _settle(self) -> None:
        """Let no kernel begin to restart, and those that do come to their end.

        Jupyter's shutdown fails on a kernel that is just starting, and the
        server would then go on for ever with a half closed kernel manager.
        """
        managers = [self._kernels.get_kernel(each) for each in self._kernels.list_kernel_ids()]
        for manager in managers:
            manager.stop_restarter()
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        while (any(not manager.ready.done() for manager in managers)
               and time.monotonic() < deadline):
            await asyncio.sleep(0.02)

    def _ours(self) -> dict[str, Record]:
        found = {}
        for kernel_id in self._kernels.list_kernel_ids():
            provisioner = self._kernels.get_kernel(kernel_id).provisioner
            if isinstance(provisioner, CheckpointProvisioner) and provisioner.record is not None:
                found[kernel_id] = provisioner.record
        return found

    async def _save(self, record: Record) -> bool:
        try:
            manifest = await self._backend.run(self._backend.save, record, trigger="shutdown")
        except CheckpointError as error:
            self._log.error("Kernel %s could not be saved and is left running: %s %s",
                            record.kernel_id, error.message, error.hint)
            return False
        self._log.info("Kernel %s is saved as checkpoint %s.", record.kernel_id, manifest.id)
        return True

    def _let_go(self, kernel_id: str) -> None:
        """Make Jupyter forget a kernel without ending it."""
        manager = self._kernels.get_kernel(kernel_id)
        manager.stop_restarter()
        self._kernels.stop_watching_activity(kernel_id)
        self._kernels.stop_buffering(kernel_id)
        # Or the manager would remove the living kernel's file when collected.
        manager._connection_file_written = False
        manager._close_control_socket()
        self._kernels.remove_kernel(kernel_id)
