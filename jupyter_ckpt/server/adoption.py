"""Adoption: a new server shows the kernels of one that died.

Runs while the extension loads, before HTTP serves: the first reading of
``/api/sessions`` drops every session whose kernel the server does not know.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from jupyter_core.utils import ensure_async

from ..errors import CheckpointError
from ..faults import point
from ..kernels import RECOVERY_DEADLINE_S
from ..record import Record
from .backend import Backend
from .owner import is_orphan_of

LOCK_NAME = "adoption.lock"
LOCK_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 2.0
IDLE_ANSWER_S = 3.0
RECOVERY_WAIT_S = 10.0
"""How long a server that starts waits for kernels that agents bring back."""
STORE_WAIT_S = 5.0
"""The same for what needs the store, which may hang."""
LATER_EVERY_S = 1.0
T = TypeVar("T")


class Adoption:
    """Takes over living kernels whose server is dead and served the same folder."""

    def __init__(
        self, backend: Backend, kernel_manager: Any, session_manager: Any, log: logging.Logger
    ) -> None:
        self._backend = backend
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._log = log
        self._later: asyncio.Task[None] | None = None
        self._going_on: set[asyncio.Task[object]] = set()

    async def adopt_all(self) -> list[str]:
        """Adopt every orphan of this server's folder and return their kernel ids.

        All at once: what takes long is waiting for agents. One kernel that
        cannot be adopted is logged and keeps none of the others. Kernels that
        agents still bring back after `RECOVERY_WAIT_S` are adopted when they live.
        """
        await self._for_a_while(RECOVERY_WAIT_S, self._backend.finish_unfinished)
        await self._for_a_while(STORE_WAIT_S, self._backend.sweep)
        records, problems = await self._surely(self._backend.records) or ([], [])
        for problem in problems:
            self._log.warning("%s", problem)
        late = {record.kernel_id for record in records
                if record.is_unfinished() and is_orphan_of(record, self._root_dir)}
        if late:
            self._log.warning("Kernels are still being brought back, and shown when they live: %s",
                              ", ".join(sorted(late)))
            self._later = asyncio.create_task(self._adopt_later(late))
        return await self._adopt_among(records)

    def stop(self) -> None:
        """Adopt no more kernels; those that are still brought back are left to others."""
        if self._later is not None:
            self._later.cancel()

    async def _adopt_later(self, late: set[str]) -> None:
        """Adopt each of the kernels `late` once it lives; none that is given up."""
        deadline = time.monotonic() + RECOVERY_DEADLINE_S
        while late and time.monotonic() < deadline:
            await asyncio.sleep(LATER_EVERY_S)
            answer = await self._surely(self._backend.records)
            if answer is not None:
                left = [record for record in answer[0] if record.kernel_id in late]
                late = {record.kernel_id for record in left if record.is_unfinished()}
                await self._adopt_among(left)

    async def _adopt_among(self, records: list[Record]) -> list[str]:
        started = time.monotonic()
        orphans = [record for record in records if self._is_ours_to_adopt(record)]
        adopted = await asyncio.gather(*(self._adopt_or_log(record) for record in orphans))
        found = [kernel_id for kernel_id in adopted if kernel_id is not None]
        if found:
            self._log.info("Adopted %d living kernels in %.2f s: %s",
                           len(found), time.monotonic() - started, ", ".join(found))
        return found

    async def _for_a_while(self, wait_s: float, step: Callable[..., object], *args: Any) -> None:
        """Do `step` surely; it goes on by itself after `wait_s`, as where a disk hangs."""
        doing = asyncio.create_task(self._surely(step, *args))
        self._going_on.add(doing)
        doing.add_done_callback(self._going_on.discard)
        await asyncio.wait({doing}, timeout=wait_s)

    async def _surely(self, step: Callable[..., T], *args: Any) -> T | None:
        """Return what `step` does in a worker thread; None, and a word in the log, if it fails.

        A server that cannot do it (a full disk, a store without its key) must
        start and show the living kernels all the same.
        """
        try:
            return await self._backend.run(step, *args)
        except Exception:
            self._log.warning("A step of adopting kernels failed.", exc_info=True)
            return None

    def _is_ours_to_adopt(self, record: Record) -> bool:
        return (record.is_alive() and record.kernel_id not in self._kernels
                and is_orphan_of(record, self._root_dir))

    @property
    def _root_dir(self) -> str:
        owner = self._backend.owner or {}
        return str(owner.get("root_dir", ""))

    async def _adopt_or_log(self, record: Record) -> str | None:
        claimed: Record | None = None
        try:
            point("adopt.found")
            claimed = await self._backend.run(self._claim, record)
            if claimed is None:
                return None
            point("adopt.claimed")
            # Its server may have died after parking it and before ending it.
            await self._for_a_while(STORE_WAIT_S, self._backend.unmark_parked, claimed.parent)
            running = await self._ask_running(claimed)
            await show_kernel(self._kernels, claimed)
            await tell_state(self._kernels.get_kernel(claimed.kernel_id), running)
            await self._recreate_sessions_surely(claimed)
            point("adopt.done")
        except Exception:
            # Whatever went wrong (a kernelspec that is gone, a broken file):
            # the kernel lives on, and the server must start all the same.
            self._log.warning("Kernel %s could not be adopted.", record.kernel_id, exc_info=True)
            if claimed is not None and record.kernel_id not in self._kernels:
                await self._surely(self._backend.release, claimed)  # or nobody ever shows it
            return None
        return record.kernel_id

    def _claim(self, record: Record) -> Record | None:
        """Make this server the owner; None when another server was faster.

        The lock makes check and claim one step for all servers of this user.
        """
        folder = self._backend.folder(record.kernel_id)
        try:
            with FileLock(folder / LOCK_NAME, timeout=LOCK_TIMEOUT_S, mode=0o600):
                present = self._backend.record(record.kernel_id)
                if not is_orphan_of(present, self._root_dir):
                    return None
                session = present.session or self._unrecorded_session(present)
                self._backend.note_session(present, session, present.notebook)
                return replace(present, session=session)
        except Timeout:
            self._log.info("Kernel %s is being adopted by another server.", record.kernel_id)
            return None

    async def _ask_running(self, record: Record) -> dict[str, Any] | None:
        """Return what runs in the kernel; None when its agent does not say soon."""
        try:
            asked = self._backend.run(self._backend.client(record).running)
            return await asyncio.wait_for(asked, PROBE_TIMEOUT_S)
        except (CheckpointError, asyncio.TimeoutError):
            return None

    async def _recreate_sessions_surely(self, record: Record) -> None:
        """Recreate the sessions; tried once more, or an opened notebook finds no kernel."""
        try:
            point("adopt.shown")
            await self._recreate_sessions(record)
        except Exception:
            self._log.warning("The session of kernel %s is recreated at a second try.",
                              record.kernel_id, exc_info=True)
            await self._recreate_sessions(record)

    async def _recreate_sessions(self, record: Record) -> None:
        first = record.session or {}
        manager = self._sessions
        for session in (first, *(first.get("others") or ())):
            if not session.get("id"):
                continue
            rows = manager.cursor.execute(
                "SELECT kernel_id FROM session WHERE session_id=?", (session["id"],)).fetchall()
            if rows:  # a session database on disk outlives its server, too
                continue
            await ensure_async(manager.save_session(
                session["id"], path=session.get("path"), name=session.get("name"),
                type=session.get("type"), kernel_id=record.kernel_id))

    def _unrecorded_session(self, record: Record) -> dict[str, Any] | None:
        """Return a session for a kernel whose server died before it had made one.

        Its notebook was being opened. Without a session, opening it again would
        start a fresh kernel, and hide this one: a session that came back, perhaps.
        """
        if record.notebook is None:
            return None
        path = os.path.relpath(os.path.realpath(record.notebook), self._root_dir)
        if path.startswith(os.pardir):
            return None
        return {"id": str(uuid.uuid4()), "path": path.replace(os.sep, "/"),
                "name": os.path.basename(path), "type": "notebook"}


async def show_kernel(
    kernel_manager: Any, record: Record, env: dict[str, str] | None = None
) -> None:
    """Make a living kernel known to Jupyter under its recorded id.

    `env` is what a later restart starts the kernel with (default: this
    process's environment and the recorded Jupyter variables).
    """
    try:
        await ensure_async(kernel_manager.start_kernel(
            kernel_id=record.kernel_id,
            kernel_name=record.kernel_name,
            cwd=record.cwd,
            env=env if env is not None else {**os.environ, **record.env},
            attach=record,
        ))
    except BaseException:
        # A start that failed stays among the pending ones, and the server's
        # shutdown would stumble over it.
        kernel_manager._pending_kernels.pop(record.kernel_id, None)
        kernel_manager.remove_kernel(record.kernel_id)
        raise


async def tell_state(manager: Any, running: dict[str, Any] | None) -> None:
    """Like `mark_state`, asking the kernel itself when its agent could not tell.

    So it is for kernels of other languages, which have no part of ours inside, and
    where the machine is so slow that the agent has not answered in time.
    """
    if running is None or running.get("busy") is None:
        running = {"busy": not await _answers_soon(manager)}
    mark_state(manager, running)


async def _answers_soon(manager: Any) -> bool:
    """Tell whether a kernel answers on its shell channel, as only idle ones do."""
    client = manager.client()
    client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=False)
    try:
        await ensure_async(client.kernel_info(reply=True, timeout=IDLE_ANSWER_S))
    except (TimeoutError, asyncio.TimeoutError, queue.Empty):
        return False
    finally:
        client.stop_channels()
    return True


def mark_state(manager: Any, running: dict[str, Any] | None) -> None:
    """Tell Jupyter whether the kernel behind `manager` is busy.

    The kernel of a running cell answers no kernel_info until the cell ends,
    and a websocket would wait for it: a finished answer is put in its place.
    When nobody knows, the kernel counts as busy until it has run its next cell.
    """
    busy = running is None or running.get("busy") is not False
    manager.execution_state = "busy" if busy else "idle"
    if busy and not hasattr(manager, "_kernel_info_future"):
        answered: Future[dict[str, Any]] = Future()
        answered.set_result({})
        manager._kernel_info_future = answered
