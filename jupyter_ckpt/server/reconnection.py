"""Knowing when the server's sockets have found the exchanged process.

ZeroMQ reconnects by itself, but not at once, and what a kernel publishes
before a subscriber is back is lost: the outputs of the first cell after a
restore, for example.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import zmq
from jupyter_core.utils import ensure_async
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

DEADLINE_S = 5.0
POLL_MS = 50


class Reconnection:
    """Watches every subscription of this server to one kernel.

    Made before the old process ends, asked after the new one listens.
    """

    def __init__(self, kernel_manager: Any, kernel_id: str) -> None:
        """Start watching; costs nothing until `wait`."""
        self._watched: list[tuple[Any, Any]] = []
        for stream in _subscriptions(kernel_manager, kernel_id):
            monitor = stream.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._watched.append((stream, monitor))

    async def wait(self, deadline_s: float = DEADLINE_S) -> bool:
        """Wait until all are connected again; tell whether they are."""
        found = await asyncio.gather(*(
            _connected(stream, monitor, time.monotonic() + deadline_s)
            for stream, monitor in self._watched))
        return all(found)

    def close(self) -> None:
        """Stop watching."""
        for stream, monitor in self._watched:
            if not stream.closed():
                stream.socket.disable_monitor()
            with contextlib.suppress(zmq.ZMQError):
                monitor.close(linger=0)
        self._watched = []


def _subscriptions(kernel_manager: Any, kernel_id: str) -> list[Any]:
    """Return the open iopub streams to a kernel: the server's own, the browsers'."""
    own = getattr(kernel_manager.get_kernel(kernel_id), "_activity_stream", None)
    streams = [own] + [
        connection.channels.get("iopub")
        for connection in list(ZMQChannelsWebsocketConnection._open_sockets)
        if connection.kernel_id == kernel_id]
    return [stream for stream in streams if stream is not None and not stream.closed()]


async def _connected(stream: Any, monitor: Any, deadline: float) -> bool:
    """Wait for a handshake; a browser that leaves meanwhile is waited for no longer."""
    while not stream.closed() and time.monotonic() < deadline:
        # The monitor is an asyncio socket, as its context is one.
        if await ensure_async(monitor.poll(POLL_MS)):
            return True
    return bool(stream.closed())
