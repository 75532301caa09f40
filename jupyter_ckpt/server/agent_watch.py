"""Every living kernel has an agent: one that dies is replaced at once.

Without a server an agent that was killed is started anew by whoever speaks to the
kernel next. With one nobody has to: schedules go on, and ``%checkpoint`` works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from .. import kernels
from ..errors import CheckpointError, KernelNotFound, ProtocolError
from ..faults import point
from ..record import Record
from .agent_line import AgentLine
from .backend import Backend
from .events import Emitter

PAUSE_S = 1.0
"""Before an agent that has just been started is looked for again."""


class AgentWatch:
    """Listens to the agents of this user's kernels, headless ones too."""

    def __init__(self, backend: Backend, events: Emitter, log: logging.Logger, every_s: float
                 ) -> None:
        self._backend, self._events, self._log = backend, events, log
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._lines: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to look for kernels, on the running loop: now, every while, and when told."""
        if self._every_s <= 0:
            return
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(woken.set)

        self._backend.on_kernel = wake
        self._task = loop.create_task(self._run(woken))

    def stop(self) -> None:
        """Listen no more; agents that die from now on are left to others."""
        for task in (self._task, *self._lines.values()):
            if task is not None:
                task.cancel()

    async def _run(self, woken: asyncio.Event) -> None:
        while True:
            woken.clear()
            try:
                await self._look()
            except Exception:
                self._log.exception("The look at the kernels' agents failed.")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(woken.wait(), self._every_s)

    async def _look(self) -> None:
        """Listen to every agent that is not listened to."""
        records, _ = await self._backend.run(self._backend.records)
        for kernel_id in [record.kernel_id for record in records if _needs_agent(record)]:
            if kernel_id not in self._lines:
                self._lines[kernel_id] = asyncio.create_task(self._attend(kernel_id))

    async def _attend(self, kernel_id: str) -> None:
        """Listen to the agents of one kernel, one after the other, until it ends."""
        line = AgentLine(self._backend.folder(kernel_id), self._events)
        try:
            while True:
                with contextlib.suppress(OSError):
                    await line.listen()
                record = await self._backend.run(self._backend.record, kernel_id)
                if not _needs_agent(record):
                    return
                if record.agent is None or not record.agent.is_alive():
                    await self._begin_agent(record)
                else:
                    await asyncio.sleep(PAUSE_S)
        except KernelNotFound:
            return
        except (CheckpointError, ProtocolError) as error:
            # Another server may have been faster, or the kernel is just ending: the next
            # look tells.
            self._log.warning("Kernel %s has no agent just now: %s", kernel_id, error.message)
        except Exception:
            self._log.exception("Kernel %s is not listened to any more.", kernel_id)
        finally:
            self._lines.pop(kernel_id, None)

    async def _begin_agent(self, record: Record) -> None:
        await self._backend.run(kernels.live_agent, self._backend.locations, record)
        point("watch.started")
        self._log.warning("The agent of kernel %s had ended; it goes on with another.",
                          record.kernel_id)


def _needs_agent(record: Record) -> bool:
    """Tell whether a kernel lives, or was stopped to be replaced and must be brought back."""
    return record.is_alive() or record.recover is not None
