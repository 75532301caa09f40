"""Holding off what would end a kernel while its process is exchanged."""

from __future__ import annotations

import asyncio
from typing import Any

_ENDINGS = ("shutdown_kernel", "restart_kernel")


class Gate:
    """While it is closed, shutdowns and restarts of one kernel manager wait.

    For there is no process to end just then, and the one that is about to live would
    be shown to nobody, or be taken for a crashed one.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._opened = asyncio.Event()

    def close(self) -> None:
        """Let what is asked for from now on wait until `open`."""
        for name in _ENDINGS:
            setattr(self._manager, name, self._waiting(getattr(self._manager, name)))

    def open(self) -> None:
        """Let all that waits go on, in the order in which it was asked for."""
        for name in _ENDINGS:
            self._manager.__dict__.pop(name, None)
        self._opened.set()

    def _waiting(self, ending: Any) -> Any:
        async def wait(*args: Any, **kwargs: Any) -> Any:
            await self._opened.wait()
            return await ending(*args, **kwargs)

        return wait
