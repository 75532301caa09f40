"""The session journal: records always know which session shows their kernel.

A server killed with -9 has no time to write anything down, so every change
of a session is written into the kernel's record when it happens.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

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

    def install(self) -> None:
        """Start keeping the journal; called once, before any session exists."""
        manager = self._sessions
        manager.save_session = self._after(manager.save_session, self._note_saved)
        manager.update_session = self._after(manager.update_session, self._note_saved)
        manager.delete_session = self._around_delete(manager.delete_session)

    def _after(self, method: Method, note: Callable[[str], Awaitable[None]]) -> Method:
        async def noted(session_id: str, *args: Any, **kwargs: Any) -> Any:
            before = self._row(session_id)
            result = await ensure_async(method(session_id, *args, **kwargs))
            after = self._row(session_id)
            if before and after and before["kernel_id"] != after["kernel_id"]:
                await self.note(before["kernel_id"], None)
            await note(session_id)
            return result

        return noted

    def _around_delete(self, method: Method) -> Method:
        async def noted(session_id: str, *args: Any, **kwargs: Any) -> Any:
            row = self._row(session_id)
            result = await ensure_async(method(session_id, *args, **kwargs))
            if row is not None:
                # Usually the kernel ended with its session, and its record too.
                await self.note(row["kernel_id"], None)
            return result

        return noted

    async def _note_saved(self, session_id: str) -> None:
        row = self._row(session_id)
        if row is not None:
            await self.note(row["kernel_id"], row)

    async def note(self, kernel_id: str, session: dict[str, Any] | None) -> None:
        """Write `session` (None: no session) into the record of a kernel of ours."""
        try:
            await self._backend.run(self._write, kernel_id, session)
        except (CheckpointError, OSError) as error:
            self._log.warning("The session of kernel %s could not be recorded: %s",
                              kernel_id, error)

    async def note_all(self) -> None:
        """Write every session into its record again (the owner's entry has changed)."""
        rows = self._sessions.cursor.execute("SELECT session_id FROM session").fetchall()
        for row in rows:
            await self._note_saved(row["session_id"])

    def _write(self, kernel_id: str, session: dict[str, Any] | None) -> None:
        if not (self._backend.folder(kernel_id) / "record.json").exists():
            return  # not a kernel of ours
        record = self._backend.record(kernel_id)
        self._backend.note_session(record, *self._recorded(session))

    def _recorded(
        self, session: dict[str, Any] | None
    ) -> tuple[dict[str, Any] | None, str | None]:
        """Return session and notebook file as a record keeps them."""
        if session is None:
            return None, None
        session = {key: session[key] for key in ("id", "path", "name", "type")}
        found = self._notebook_path(session["path"]) if session["type"] == "notebook" else None
        return session, str(found) if found else None

    def session_of(self, kernel_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return session and notebook file of a kernel: a restarted one keeps them."""
        row = self._sessions.cursor.execute(
            "SELECT session_id FROM session WHERE kernel_id=?", (kernel_id,)).fetchone()
        return self._recorded(self._row(row["session_id"]) if row is not None else None)

    def _row(self, session_id: str) -> dict[str, Any] | None:
        row = self._sessions.cursor.execute(
            "SELECT session_id, path, name, type, kernel_id FROM session WHERE session_id=?",
            (session_id,)).fetchone()
        if row is None:
            return None
        return {"id": row["session_id"], "path": row["path"], "name": row["name"],
                "type": row["type"], "kernel_id": row["kernel_id"]}
