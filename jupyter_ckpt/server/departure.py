"""What becomes of the kernels when the server is shut down on purpose."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ..faults import point
from ..record import Record
from .lookup import record_shown
from .park_service import ParkService

SETTLE_DEADLINE_S = 20.0
POLICIES = ("save-and-stop", "leave-running", "stop")


class Departure:
    """Applies ``on_shutdown`` before the server ends its kernels."""

    def __init__(self, parks: ParkService, kernel_manager: Any, log: logging.Logger) -> None:
        self._parks = parks
        self._kernels = kernel_manager
        self._log = log

    async def leave(self, policy: str, budget_s: float) -> None:
        """Let go of the kernels that shall live on; the server ends the rest.

        ``save-and-stop`` leaves a kernel running whose save failed, or is not
        done after `budget_s` seconds: nothing is ended before what replaces it
        is safe.
        """
        await self._settle()
        ours = self._ours()
        if policy == "stop" or not ours:
            return
        if policy == "save-and-stop":
            try:
                ours = await self._unsaved(ours, budget_s)
            except Exception:
                self._log.exception("Saving the kernels failed; all are left running.")
        for kernel_id in ours:
            self._let_go(kernel_id)
        point("depart.released")
        if ours:
            self._log.info("Left %d kernels running; the next server in this folder shows them.",
                           len(ours))

    async def _unsaved(self, ours: dict[str, Record], budget_s: float) -> dict[str, Record]:
        """Park all of `ours`; return those that must not be ended."""
        saved = await asyncio.gather(*(self._park(record, budget_s) for record in ours.values()))
        point("depart.saved")
        return {key: record for (key, record), done in zip(ours.items(), saved) if not done}

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
            record = record_shown(self._kernels, kernel_id)
            if record is not None:
                found[kernel_id] = record
        return found

    async def _park(self, record: Record, budget_s: float) -> bool:
        if not record.is_alive():
            return True
        parking = await self._parks.secure(record, "shutdown", budget_s)
        return parking is not None and await parking.mark()

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
