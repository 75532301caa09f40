"""Culling that loses nothing: an idle kernel is saved before the server ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from jupyter_core.utils import ensure_async

from ..faults import point
from .lookup import record_shown
from .park_service import ParkService

POLICIES = ("save-and-stop", "stop")
SAVE_DEADLINE_S = 600.0
"""After that the kernel is left running; a save that is done later counts at the next round."""
_culling: ContextVar[bool] = ContextVar("culling", default=False)
Method = Callable[..., Awaitable[Any]]


class Culling:
    """Applies ``on_cull`` by wrapping two methods of a kernel manager.

    Wrapping the instance (not subclassing) keeps whatever kernel manager the
    user configured. Which kernels are idle is still its decision.
    """

    def __init__(self, parks: ParkService, kernel_manager: Any, log: logging.Logger) -> None:
        self._parks = parks
        self._kernels = kernel_manager
        self._log = log
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The culls that are under way, by kernel id."""

    def install(self) -> None:
        """Begin to save what is culled; a kernel manager that never culls is left alone."""
        manager = self._kernels
        if hasattr(manager, "cull_kernel_if_idle"):
            manager.cull_kernel_if_idle = self._marking(manager.cull_kernel_if_idle)
            manager.shutdown_kernel = self._saving_first(manager.shutdown_kernel)

    @staticmethod
    def _marking(method: Method) -> Method:
        async def culled(*args: Any, **kwargs: Any) -> Any:
            token = _culling.set(True)
            try:
                return await ensure_async(method(*args, **kwargs))
            finally:
                _culling.reset(token)

        return culled

    def _saving_first(self, method: Method) -> Method:
        async def stopped(kernel_id: str, *args: Any, **kwargs: Any) -> Any:
            if _culling.get():
                return self._begin(kernel_id, method)
            return await ensure_async(method(kernel_id, *args, **kwargs))

        return stopped

    def _begin(self, kernel_id: str, method: Method) -> None:
        """Cull a kernel in a task of its own, unless one is at it.

        Jupyter looks at one kernel after the other: a save that takes long, or
        hangs, would keep all the others from being looked at.
        """
        if kernel_id in self._tasks:
            return
        task = self._tasks[kernel_id] = asyncio.create_task(self._cull(kernel_id, method))
        task.add_done_callback(lambda done: self._ended(kernel_id, done))

    def _ended(self, kernel_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(kernel_id, None)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("Kernel %s could not be culled.", kernel_id, exc_info=task.exception())

    async def _cull(self, kernel_id: str, method: Method) -> None:
        """End an idle kernel once it is safe; one that is not is looked at again next round."""
        record = record_shown(self._kernels, kernel_id)
        if record is None or not record.is_alive():
            await ensure_async(method(kernel_id))
            return
        before = self._use(kernel_id)
        parking = await self._parks.secure(record, "cull", SAVE_DEADLINE_S)
        if parking is None:
            return
        point("cull.saved")

        async def is_unused() -> bool:
            return self._use(kernel_id) == before

        if not await parking.mark(is_unused):
            return
        try:
            await ensure_async(method(kernel_id))
        except BaseException:
            await parking.undo()
            raise
        point("cull.stopped")

    def _use(self, kernel_id: str) -> tuple[Any, ...]:
        """Return what changes when somebody uses the kernel."""
        if kernel_id not in self._kernels:
            return ()
        kernel = self._kernels.get_kernel(kernel_id)
        connections = getattr(self._kernels, "_kernel_connections", {})
        return (kernel.execution_state, kernel.last_activity, connections.get(kernel_id))
