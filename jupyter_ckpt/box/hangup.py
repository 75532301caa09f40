"""Ending TCP connections so that their ports are free at once.

A process that dies with open connections leaves them to the system for a
minute (TIME_WAIT), and nobody can restore a session on their ports meanwhile.
A connection with zero linger time is reset instead, and leaves nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_SYS_PIDFD_GETFD = 438
_LIBC = ctypes.CDLL(None, use_errno=True)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def reset_on_end(pids: Iterable[int]) -> int:
    """Make every TCP connection of these processes end by reset; return how many.

    Called just before the processes are killed; they and their peers notice
    nothing until then. What cannot be reached (a process that ends meanwhile,
    one we may not trace) keeps its ordinary end.
    """
    count = 0
    for pid in pids:
        for copy in _sockets(pid):
            with contextlib.suppress(OSError), socket.socket(fileno=copy) as borrowed:
                if borrowed.proto == socket.IPPROTO_TCP:
                    borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                    count += 1
    return count


def _sockets(pid: int) -> Iterator[int]:
    """Yield a descriptor of our own for every socket of a process."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        folder = f"/proc/{pid}/fd"
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}").startswith("socket:"):
                    copy = _LIBC.syscall(_SYS_PIDFD_GETFD, process, int(name), 0)
                    if copy >= 0:
                        yield copy
    except OSError:
        return
    finally:
        os.close(process)
