"""What becomes of the kernels when the server is shut down on purpose."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import CheckpointError
from ..faults import point
from ..record import Record
from .backend import Backend
from .lookup import record_shown
from .park_service import ParkService

USE_DEADLINE_S = 2.0
SETTLE_DEADLINE_S = 20.0
RELEASE_DEADLINE_S = 5.0
POLICIES = ("save-and-stop", "leave-running", "stop")


@dataclass(frozen=True)
class Use:
    """How far a kernel had been used at one moment.

    Who watches does not count, unlike for a cull: pages are closed when a server ends.
    """

    cells: int | None
    """The cells it had run; None when it does not tell: not yet, not in time, or never."""
    busy: bool
    state: str | None
    """Its state and last activity as Jupyter knows them; None when it does not know the kernel."""
    active_at: Any

    def is_beyond(self, earlier: Use) -> bool:
        """Tell whether somebody ran a cell between `earlier` and this moment.

        If one ran already then, nothing counts: it, and what waited for its end, goes on
        from the moment it was saved at. Nor does what the session prints, where cells are
        counted at both moments: a thread may print all the time.
        """
        if earlier.busy or self.busy:
            return not earlier.busy
        if self.cells == 0:
            return False  # nobody ever did: all that can have happened is that it came up
        if self.cells is not None and earlier.cells is not None:
            return self.cells != earlier.cells
        return (self.state, self.active_at) != (earlier.state, earlier.active_at)


class Departure:
    """Applies ``on_shutdown`` before the server ends its kernels."""

    def __init__(self, backend: Backend, parks: ParkService, kernel_manager: Any,
                 log: logging.Logger) -> None:
        self._backend = backend
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
        # All are let go before anything is waited for: the server ends the rest.
        left = [record for kernel_id, record in ours.items() if self._let_go_surely(kernel_id)]
        await asyncio.gather(*(self._release(record) for record in left))
        point("depart.released")
        if left:
            self._log.info("Left %d kernels running; the next server in this folder shows them.",
                           len(left))

    async def _unsaved(self, ours: dict[str, Record], budget_s: float) -> dict[str, Record]:
        """Park all of `ours`; return those that must not be ended.

        None is marked before all are saved: whoever uses a kernel until then keeps it.
        """
        alive = {key: record for key, record in ours.items() if record.is_alive()}
        uses = dict(zip(alive, await asyncio.gather(*map(self._use, alive.values()))))

        async def is_unused(key: str) -> bool:
            return not (await self._use(alive[key])).is_beyond(uses[key])

        saved = await self._each(alive, lambda key: self._parks.secure(
            alive[key], "shutdown", budget_s))
        point("depart.saved")
        marked = await self._each(saved, lambda key: saved[key].mark(partial(is_unused, key)))
        return {key: record for key, record in alive.items() if key not in marked}

    async def _each(self, kernel_ids: Iterable[str], act: Callable[[str], Awaitable[Any]]
                    ) -> dict[str, Any]:
        """Do `act` with all kernels at once; return what it answered, if that is not nothing.

        A kernel with which it went wrong is logged, and not among them.
        """
        asked = list(kernel_ids)
        answers = await asyncio.gather(*map(act, asked), return_exceptions=True)
        for kernel_id, error in zip(asked, answers):
            if isinstance(error, BaseException):
                self._log.error("Kernel %s could not be saved and is left running.", kernel_id,
                                exc_info=error)
        return {key: answer for key, answer in zip(asked, answers)
                if answer and not isinstance(answer, BaseException)}

    async def _use(self, record: Record) -> Use:
        try:
            asked = self._backend.run(self._backend.running, record)
            told = await asyncio.wait_for(asked, USE_DEADLINE_S)
        except (CheckpointError, OSError, asyncio.TimeoutError):
            told = {}
        cells = told.get("cells_run")
        if record.kernel_id not in self._kernels:
            return Use(cells, bool(told.get("busy")), None, None)
        kernel = self._kernels.get_kernel(record.kernel_id)
        busy = told["busy"] if cells is not None else kernel.execution_state == "busy"
        return Use(cells, busy, kernel.execution_state, kernel.last_activity)

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

    def _let_go_surely(self, kernel_id: str) -> bool:
        """Like `_let_go`; False, and a word in the log, for a kernel that has vanished, say.

        One that cannot be let go must not cost the others their lives.
        """
        try:
            self._let_go(kernel_id)
        except Exception:
            self._log.exception("Kernel %s could not be let go.", kernel_id)
            return False
        return True

    async def _release(self, record: Record) -> None:
        """Let the next server take the kernel while this process still runs."""
        try:
            await asyncio.wait_for(
                self._backend.run(self._backend.release, record), RELEASE_DEADLINE_S)
        except (CheckpointError, OSError, asyncio.TimeoutError) as error:
            self._log.warning("Kernel %s belongs to this server until it has ended: %s",
                              record.kernel_id, error)

    def _let_go(self, kernel_id: str) -> None:
        """Make Jupyter forget a kernel without ending it."""
        manager = self._kernels.get_kernel(kernel_id)
        try:
            manager.stop_restarter()
            self._kernels.stop_watching_activity(kernel_id)
            self._kernels.stop_buffering(kernel_id)
            # Or the manager would remove the living kernel's file when collected.
            manager._connection_file_written = False
            manager._close_control_socket()
        finally:
            self._kernels.remove_kernel(kernel_id)
