"""The session journal: records always know which sessions show their kernel.

A server killed with -9 has no time to write anything down, so every change
of a session is written into the kernel's record when it happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from jupyter_core.utils import ensure_async

from ..errors import CheckpointError
from .backend import Backend

Method = Callable[..., Awaitable[Any]]


class SessionJournal:
    """Wraps the three methods through which a session manager changes sessions.

    Wrapping the instance (not subclassing) keeps whatever session manager the
    user configured. The wrapped call always runs first; a journal that cannot
    be written is logged and never fails the user's request.
    """

    def __init__(
        self,
        backend: Backend,
        session_manager: Any,
        notebook_path: Callable[[str], Path | None],
        log: logging.Logger,
    ) -> None:
        self._backend = backend
        self._sessions = session_manager
        self._notebook_path = notebook_path
        self._log = log
        # Weak: a lock goes with the last who holds or awaits it, or each kernel would leave one.
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def install(self) -> None:
        """Start keeping the journal; called once, before any session exists."""
        manager = self._sessions
        manager.save_session = self._after(manager.save_session, self._note_saved)
        manager.update_session = self._after(manager.update_session, self._note_saved)
        manager.delete_session = self._around_delete(manager.delete_session)

    def _after(self, method: Method, note: Callable[[str], Awaitable[None]]) -> Method:
        async def noted(session_id: str, *args: Any, **kwargs: Any) -> Any:
            before = self._kernel_of(session_id)
            result = await ensure_async(method(session_id, *args, **kwargs))
            if before is not None and before != self._kernel_of(session_id):
                await self.note(before)
            await note(session_id)
            return result

        return noted

    def _around_delete(self, method: Method) -> Method:
        async def noted(session_id: str, *args: Any, **kwargs: Any) -> Any:
            kernel_id = self._kernel_of(session_id)
            result = await ensure_async(method(session_id, *args, **kwargs))
            if kernel_id is not None:
                # Usually the kernel ended with its session, and its record too.
                await self.note(kernel_id)
            return result

        return noted

    async def _note_saved(self, session_id: str) -> None:
        kernel_id = self._kernel_of(session_id)
        if kernel_id is not None:
            await self.note(kernel_id)

    async def note(self, kernel_id: str) -> None:
        """Write the sessions that show a kernel now into its record, if it is ours.

        One after the other for each kernel: what is written last is what was seen last.
        """
        try:
            async with self._writing.setdefault(kernel_id, asyncio.Lock()):
                await self._backend.run(self._write, kernel_id, *self.session_of(kernel_id))
        except (CheckpointError, OSError) as error:
            self._log.warning("The session of kernel %s could not be recorded: %s",
                              kernel_id, error)

    async def note_all(self) -> None:
        """Write every session into its record again (the owner's entry has changed)."""
        rows = self._sessions.cursor.execute("SELECT DISTINCT kernel_id FROM session").fetchall()
        for row in rows:
            await self.note(row["kernel_id"])

    def _write(
        self, kernel_id: str, session: dict[str, Any] | None, notebook: str | None
    ) -> None:
        if not (self._backend.folder(kernel_id) / "record.json").exists():
            return  # not a kernel of ours
        self._backend.note_session(self._backend.record(kernel_id), session, notebook)

    def session_of(self, kernel_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return session and notebook file of a kernel as a record keeps them.

        A kernel may have several sessions (a notebook and its console): the
        notebook's counts, since it brings the kernel back, and the others stand
        in its ``others``.
        """
        rows = self._sessions.cursor.execute(
            "SELECT session_id AS id, path, name, type FROM session WHERE kernel_id=? "
            "ORDER BY type != 'notebook', rowid", (kernel_id,)).fetchall()
        if not rows:
            return None, None
        session, *others = map(dict, rows)
        found = self._notebook_path(session["path"]) if session["type"] == "notebook" else None
        if others:
            session["others"] = others
        return session, str(found) if found else None

    def _kernel_of(self, session_id: str) -> str | None:
        row = self._sessions.cursor.execute(
            "SELECT kernel_id FROM session WHERE session_id=?", (session_id,)).fetchone()
        return row["kernel_id"] if row is not None else None
