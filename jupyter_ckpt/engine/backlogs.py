"""Connections that were made and that nobody has accepted yet.

CRIU brings such a connection back where both ends are in the tree and nothing was
sent; it fails for others, or, worse, writes images that cannot be restored. Most
are gone in a moment, for the program that listens accepts them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress

from .unixpeers import UnixSocket

_LISTENING = "0A"
"""A state in ``/proc/net/tcp`` (linux/tcp_states.h)."""

Unaccepted = tuple[str, int, str]


def unaccepted_unix(
    sockets: Mapping[int, UnixSocket], inside: Collection[int]
) -> Iterator[Unaccepted]:
    """Yield (kind, inode, name of the listening socket) of what stands in the way of a dump.

    `sockets` is what `unix_sockets` tells, `inside` the inodes of the tree's own, one
    of which each inode is: the one that has connected to a program outside, or the
    one that listens and does not accept.
    """
    for inode, listening in sockets.items():
        for other in listening.waiting:
            if inode not in inside:
                if other in inside:
                    yield "unix-connection", other, listening.name
            elif other == 0 or (other in inside and _holds_data(sockets.get(other))):
                # One of a program outside that is still open is left out of the images.
                yield "unix-backlog", inode, listening.name


def _holds_data(connected: UnixSocket | None) -> bool:
    return connected is not None and connected.unread_bytes > 0


def unaccepted_tcp(process: str, inside: Collection[int]) -> Iterator[Unaccepted]:
    """Yield (kind, inode, port) of the listening sockets `inside` that have not accepted all.

    They are looked for in the network namespace of ``/proc/PID`` (`process`). Where
    the connection comes from makes no difference to CRIU.
    """
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"{process}/net/{table}", encoding="ascii") as lines:
            next(lines, "")
            for line in lines:
                _, address, _, state, queues, _, _, _, _, inode = line.split()[:10]
                if state != _LISTENING:
                    break  # all that listen come first
                if int(queues.partition(":")[2], 16) and int(inode) in inside:
                    yield "tcp-backlog", int(inode), str(int(address.rpartition(":")[2], 16))
