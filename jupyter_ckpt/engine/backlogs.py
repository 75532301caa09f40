"""Connections that were made and that nobody has accepted yet.

CRIU brings such a connection back where both ends are in the tree and nothing was
sent; it fails for others, or, worse, writes images that cannot be restored.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from .unixpeers import UnixSocket

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
