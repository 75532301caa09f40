"""Who is connected to whom by unix sockets, as the kernel's sock_diag tells.

Source of the binary layout: ``linux/unix_diag.h`` and ``linux/sock_diag.h``.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_REQUEST_DUMP = 0x301
_MESSAGE_ERROR, _MESSAGE_DONE = 2, 3
_SHOW_NAME, _SHOW_PEER, _SHOW_WAITING, _SHOW_QUEUES = 1, 4, 8, 16
_ATTRIBUTE_NAME, _ATTRIBUTE_PEER, _ATTRIBUTE_WAITING, _ATTRIBUTE_QUEUES = 0, 2, 3, 4
_HEADER, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBBBI8x")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class UnixSocket:
    """One unix socket of this network namespace.

    `peer` is an inode, 0 when the other end has none (not accepted yet, or closed),
    or None. `waiting` are the other ends of the connections that a listening socket
    has not accepted, each 0 once it is closed. `unread_bytes` is about how much of
    what was sent nobody has read; of a listening socket it means nothing.
    """

    kind: int
    name: str
    peer: int | None
    waiting: tuple[int, ...] = ()
    unread_bytes: int = 0


def unix_sockets() -> dict[int, UnixSocket]:
    """Return {inode: socket} of every unix socket here; empty where it cannot be asked."""
    request = struct.pack("=BBHIII8s", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0,
                          _SHOW_NAME | _SHOW_PEER | _SHOW_WAITING | _SHOW_QUEUES, b"\xff" * 8)
    found: dict[int, UnixSocket] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as line:
            line.settimeout(_TIMEOUT_S)
            line.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY,
                                   _REQUEST_DUMP, 1, 0) + request)
            while _read(line.recv(1 << 16), found):
                pass
    except OSError:
        return {}
    return found


def _read(data: bytes, found: dict[int, UnixSocket]) -> bool:
    """Add what one answer tells to `found`; tell whether more will come."""
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, position)[:2]
        if kind in (_MESSAGE_DONE, _MESSAGE_ERROR) or length < _HEADER.size:
            return False
        body = position + _HEADER.size
        _, kind_of_socket, _, _, inode = _ANSWER.unpack_from(data, body)
        attributes = _attributes(data, body + _ANSWER.size, position + length)
        peer = attributes.get(_ATTRIBUTE_PEER)
        waiting = attributes.get(_ATTRIBUTE_WAITING, b"")
        queues = attributes.get(_ATTRIBUTE_QUEUES)
        name = attributes.get(_ATTRIBUTE_NAME, b"").replace(b"\0", b"@")
        found[inode] = UnixSocket(
            kind_of_socket, name.decode("utf-8", "replace").rstrip("@"),
            struct.unpack("=I", peer)[0] if peer else None,
            struct.unpack(f"={len(waiting) // 4}I", waiting),
            struct.unpack("=II", queues)[1] if queues else 0)
        position += (length + 3) & ~3
    return True


def _attributes(data: bytes, position: int, end: int) -> dict[int, bytes]:
    found = {}
    while position + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3
    return found
