"""Schedules go on though their agents die: a look at each of them once a minute.

A schedule lives in the kernel's agent. An agent that was killed is started
anew by whoever speaks to the kernel next, and with a schedule nobody has to.
"""

from __future__ import annotations

import asyncio
import logging

from .. import kernels
from ..errors import CheckpointError
from ..faults import point
from ..record import Record
from .backend import Backend


class AgentWatch:
    """Starts agents anew for living kernels that have a schedule, headless ones too."""

    def __init__(self, backend: Backend, log: logging.Logger, every_s: float) -> None:
        self._backend = backend
        self._log = log
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look, on the running loop."""
        if self._every_s > 0:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:
                self._log.exception("The look at the kernels' agents failed.")

    async def look(self) -> list[str]:
        """Start what is missing; return the ids of the kernels that got a new agent.

        Costs the reading of one small file and two process ids for each kernel.
        """
        records, _ = await self._backend.run(self._backend.records)
        begun = []
        for record in records:
            if not _lacks_agent(record):
                continue
            try:
                await self._backend.run(kernels.live_agent, self._backend.locations, record)
            except CheckpointError as error:
                # Another server may have been faster, or the kernel has ended.
                self._log.warning("Kernel %s is not saved by itself just now: %s",
                                  record.kernel_id, error.message)
                continue
            point("watch.started")
            self._log.warning("The agent of kernel %s had ended; its schedule goes on with "
                              "another.", record.kernel_id)
            begun.append(record.kernel_id)
        return begun


def _lacks_agent(record: Record) -> bool:
    return (record.schedule is not None and record.agent is not None
            and not record.agent.is_alive() and record.is_alive())
