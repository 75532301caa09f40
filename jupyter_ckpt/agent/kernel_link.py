"""The agent's line to the in-kernel part: one request, one answer, closed.

The kernel's end closes first, so that nothing of ours is open in the tree when
it is frozen. Kernels without the in-kernel part simply do not answer.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..engine.unixpeers import unix_sockets
from ..protocol import KERNEL_SOCKET_NAME

_MAX_ANSWER_BYTES = 64 << 20
PING_TIMEOUT_S = 1.0
LINK_TIMEOUT_S = 3.0
"""For questions that a living in-kernel part answers at once."""
START_DEADLINE_S = 15.0
"""How long a kernel that has just been started is given to let its in-kernel part answer."""


class KernelLink:
    """Requests to the kernel whose runtime folder is `folder`; each answer calls `on_heard`.

    A kernel that `is_stopped` is asked nothing: the request would wait in its socket,
    where CRIU cannot save it once it is closed.
    """

    def __init__(self, folder: Path, on_heard: Callable[[], None] = lambda: None,
                 is_stopped: Callable[[], bool] = lambda: False) -> None:
        self._folder, self._on_heard, self._is_stopped = folder, on_heard, is_stopped
        self._line = threading.RLock()
        self._unheard: list[socket.socket] = []
        """The lines of questions that the kernel has not even accepted, still open."""

    @property
    def exists(self) -> bool:
        """Whether the in-kernel part has made its socket, which it does before any cell runs."""
        return (self._folder / KERNEL_SOCKET_NAME).exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the line for this thread: others' requests wait, or go without answer.

        A request that reaches a frozen kernel would be a connection from outside
        the tree, and CRIU refuses to save those.
        """
        with self._line:
            yield

    def settle(self) -> None:
        """Close what was asked without answer, but for what still waits to be accepted.

        While its interpreter is held, a kernel accepts nothing. CRIU saves it all the
        same as long as the other end of what waits there is open, and as soon as it is
        accepted only if that is closed.
        """
        with self._line:
            if not self._unheard:
                return
            waiting = {other for sock in unix_sockets().values() for other in sock.waiting}
            lines, self._unheard = self._unheard, []
            for line in lines:
                if os.fstat(line.fileno()).st_ino in waiting:
                    self._unheard.append(line)
                else:
                    line.close()

    def is_up(self) -> bool:
        """Tell whether the in-kernel part answers: its socket is there before it listens."""
        return self.ask("ping", PING_TIMEOUT_S) is not None

    def ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any] | None:
        """Send one request; return the answer, or None when none came in time."""
        if not self._line.acquire(timeout=timeout_s):
            return None
        try:
            return self._ask(op, timeout_s, fields)
        finally:
            self._line.release()

    def _ask(self, op: str, timeout_s: float, fields: dict[str, Any]) -> dict[str, Any] | None:
        if self._is_stopped():
            return None
        request = json.dumps({"op": op, **fields}).encode() + b"\n"
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        line = socket.socket(socket.AF_UNIX)
        try:
            line.settimeout(timeout_s)
            line.connect(f"/proc/self/fd/{folder}/{KERNEL_SOCKET_NAME}")
            line.sendall(request)
            answer = json.loads(_read_to_end(line))
        except (OSError, ValueError, RecursionError):
            self._unheard.append(line)
            return None
        else:
            line.close()
        finally:
            os.close(folder)
            self.settle()
        if not isinstance(answer, dict):
            return None
        self._on_heard()
        return answer


def _read_to_end(line: socket.socket) -> bytes:
    parts, size = [], 0
    while part := line.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise ValueError("answer too long")
    return b"".join(parts)
