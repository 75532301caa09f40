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
_SHOW_NAME, _SHOW_PEER = 1, 4
_ATTRIBUTE_NAME, _ATTRIBUTE_PEER = 0, 2
_HEADER, _ANSWER = struct.Struct("=IHHII"), struct.Struct("=BBBBI8x")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class UnixSocket:
    """One unix socket of this network namespace: `peer` is an inode or None."""

    kind: int
    name: str
    peer: int | None


def unix_sockets() -> dict[int, UnixSocket]:
    """Return {inode: socket} of every unix socket here; empty where it cannot be asked."""
    request = struct.pack("=BBHIII8s", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0,
                          _SHOW_NAME | _SHOW_PEER, b"\xff" * 8)
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
        name = attributes.get(_ATTRIBUTE_NAME, b"").replace(b"\0", b"@")
        found[inode] = UnixSocket(
            kind_of_socket, name.decode("utf-8", "replace").rstrip("@"),
            struct.unpack("=I", peer)[0] if peer else None)
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
