"""Opening a document: who asks again while its kernel starts gets the same session.

A parked session of gigabytes takes a while to come back, and somebody who waits
reloads the page. Jupyter knows a session only once its kernel runs, so the
second request would start another kernel, fresh, and hide the restored one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jupyter_core.utils import ensure_async

Method = Callable[..., Awaitable[Any]]


class Opening:
    """Wraps the method by which a session manager starts a kernel for a document.

    Wrapping the instance (not subclassing) keeps whatever session manager the
    user configured.
    """

    def __init__(self, session_manager: Any) -> None:
        self._sessions = session_manager
        self._pending: dict[str, asyncio.Future[Any]] = {}
        """The sessions that are being made, by the path of their document."""

    def install(self) -> None:
        """Begin to join requests; called once."""
        self._sessions.create_session = self._joining(self._sessions.create_session)

    def _joining(self, method: Method) -> Method:
        async def created(*args: Any, **kwargs: Any) -> Any:
            path = kwargs.get("path")
            # A page may choose the id of a kernel that is yet to be started.
            is_there = kwargs.get("kernel_id") in self._sessions.kernel_manager
            if args or path is None or is_there:
                return await ensure_async(method(*args, **kwargs))
            # By the path alone: once the session is there, Jupyter answers it to
            # everybody who opens this path, whatever kernel they ask for.
            pending = self._pending.get(path)
            if pending is None:
                pending = asyncio.ensure_future(ensure_async(method(**kwargs)))
                self._pending[path] = pending
                pending.add_done_callback(lambda done: self._pending.pop(path, None))
            return await asyncio.shield(pending)

        return created
