"""The kernel's end of the agent's line: a unix socket, one request per connection.

One JSON line comes in, one goes out, and this side closes first: when the agent
has read the end of the answer, nothing of this process is connected any more
and it can be dumped. Requests are served one after the other by one daemon
thread, also while a cell runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from .mainthread import hide_from_debugger
from .silence import Deadline

SOCKET_NAME = "kernel.sock"
MAX_REQUEST_BYTES = 16 << 20
READ_TIMEOUT_S = 10.0
TICK_S = 1.0


class Link:
    """Listens in `runtime`; `answer` turns a request into an answer.

    `tick` is called about every second while `ticking` is set. Ticks are counted
    in time during which this process really ran, so neither a freeze nor a clock
    that jumps in a restore makes them come at once.
    """

    def __init__(self, runtime: str, answer: Callable[[dict[str, Any]], dict[str, Any]],
                 tick: Callable[[], None]) -> None:
        self.runtime = runtime
        self.ticking = False
        self._answer = answer
        self._tick = tick
        self._pid = os.getpid()
        self._connection: socket.socket | None = None
        self._listener = _listen(runtime)

    def start(self) -> None:
        """Begin to answer; forked children neither answer nor keep the socket."""
        os.register_at_fork(after_in_child=self._leave)
        thread = threading.Thread(target=self._serve, name="jupyter_ckpt", daemon=True)
        hide_from_debugger(thread)
        thread.start()

    def move(self, runtime: str) -> None:
        """Listen in another runtime folder from the next request on.

        Nothing happens if a socket is there already: the restore has put our
        own one back under its path. Raises OSError and stays where it is when
        the new place cannot be used.
        """
        if not os.path.exists(os.path.join(runtime, SOCKET_NAME)):
            old, self._listener = self._listener, _listen(runtime)
            old.close()
        self.runtime = runtime

    def _leave(self) -> None:
        for sock in (self._listener, self._connection):
            if sock is not None:
                sock.close()

    def _serve(self) -> None:
        while True:
            try:
                self._listener.settimeout(TICK_S if self.ticking else None)
                connection, _ = self._listener.accept()
            except socket.timeout:  # noqa: UP041
                self._tick()
                continue
            except OSError:
                time.sleep(TICK_S)  # out of descriptors, most likely: try again
                continue
            self._connection = connection
            # The peer may vanish at any moment: that is its own affair. Nor may anything
            # else end this thread: nobody would ever answer the agent again.
            with connection, contextlib.suppress(Exception):
                self._exchange(connection)
            self._connection = None

    def _exchange(self, connection: socket.socket) -> None:
        if not _is_trusted(connection):
            return
        try:
            request = json.loads(_read_line(connection))
            if not isinstance(request, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            answer = _refusal(f"Malformed request: {error}.")
        else:
            try:
                answer = self._answer(request)
            except Exception as error:
                answer = _refusal(f"{type(error).__name__}: {error}", "internal")
        connection.settimeout(READ_TIMEOUT_S)
        connection.sendall(json.dumps(answer, default=str).encode() + b"\n")


def _refusal(message: str, message_id: str = "protocol") -> dict[str, Any]:
    return {"ok": False, "error": {"id": message_id, "message": message}}


def _listen(runtime: str) -> socket.socket:
    path = os.path.join(runtime, SOCKET_NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_trusted(connection: socket.socket) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    uid = struct.unpack("3i", credentials)[1]
    return uid in (0, os.getuid())


def _read_line(connection: socket.socket) -> bytes:
    """Return the request line; ValueError when it is too long or too slow."""
    deadline, chunks, size = Deadline(READ_TIMEOUT_S), [], 0
    while True:
        connection.settimeout(deadline.left_s(0.01))
        try:
            chunk = connection.recv(65536)
        except socket.timeout:  # noqa: UP041
            raise ValueError("the line did not end in time") from None
        chunks.append(chunk)
        size += len(chunk)
        if not chunk or b"\n" in chunk:
            return b"".join(chunks).split(b"\n", 1)[0]
        if size > MAX_REQUEST_BYTES:
            raise ValueError("the line is too long")
