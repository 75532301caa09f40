"""The internet sockets of a dumped tree, and how a restore may change them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import magic_of, read_image, write_image

TCP_CLOSE, TCP_LISTEN = 7, 10
_IPPROTO_TCP = 6


@dataclass(frozen=True)
class Listener:
    """A port the tree accepts on: `protocol` is tcp or udp."""

    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class Connection:
    """A TCP connection between two processes of the tree (one direction)."""

    source: tuple[str, int]
    target: tuple[str, int]


@dataclass
class InetSockets:
    """What a dump has of the network: ports to take, connections to bring back."""

    listeners: list[Listener]
    inner: list[Connection]
    outer: list[Connection]


def inet_sockets(images: Path) -> InetSockets:
    """Return the internet sockets of a dump."""
    listeners: list[Listener] = []
    connections: list[Connection] = []
    for entry in read_image(images / "files.img", "file_entry"):
        if not entry.HasField("isk"):
            continue
        sk = entry.isk
        tcp = sk.type == socket.SOCK_STREAM
        if (tcp and sk.state == TCP_LISTEN) or (not tcp and sk.src_port and not sk.dst_port):
            address = _address(sk.family, sk.src_addr)
            listeners.append(Listener("tcp" if tcp else "udp", address, sk.src_port))
        elif _is_connection(sk):
            connections.append(_connection(sk))
    ends = set(connections)
    inner = [c for c in connections if Connection(c.target, c.source) in ends]
    outer = [c for c in connections if c not in inner]
    return InetSockets(listeners, inner, outer)


def close_outer_connections(images: Path, keep_inner: bool) -> int:
    """Make connections to outside the tree come back closed; return how many.

    Their other end has not been saved: restoring one would leave a socket that
    waits for an answer which nobody gives, and its ports may be held by the
    system for a minute. With `keep_inner` False those inside close as well.
    """
    inner = set(inet_sockets(images).inner) if keep_inner else set()
    closed = 0

    def edit(entry: Any) -> None:
        nonlocal closed
        sk = entry.isk
        if _is_connection(sk) and _connection(sk) not in inner:
            # A socket that was never bound nor connected: reads say so at once.
            sk.state, sk.src_port, sk.dst_port = TCP_CLOSE, 0, 0
            closed += 1

    _edit_sockets(images, edit)
    return closed


def map_ports(images: Path, ports: Mapping[int, int]) -> None:
    """Move listeners, and connections inside the tree, to other ports."""

    def edit(entry: Any) -> None:
        sk = entry.isk
        sk.src_port = ports.get(sk.src_port, sk.src_port)
        sk.dst_port = ports.get(sk.dst_port, sk.dst_port)

    if ports:
        _edit_sockets(images, edit)


def _edit_sockets(images: Path, edit: Any) -> None:
    path = images / "files.img"
    entries, magic = read_image(path, "file_entry"), magic_of(path)
    for entry in entries:
        if entry.HasField("isk"):
            edit(entry)
    write_image(path, magic, entries)


def _is_connection(sk: Any) -> bool:
    stream = sk.type == socket.SOCK_STREAM and sk.proto in (0, _IPPROTO_TCP)
    return bool(stream and sk.state not in (TCP_LISTEN, TCP_CLOSE) and sk.dst_port)


def _connection(sk: Any) -> Connection:
    return Connection(
        (_address(sk.family, sk.src_addr), sk.src_port),
        (_address(sk.family, sk.dst_addr), sk.dst_port))


def _address(family: int, words: Any) -> str:
    raw = struct.pack(f"={len(words)}I", *words)
    if family == socket.AF_INET6 and len(raw) >= 16:
        found = ipaddress.IPv6Address(raw[:16])
        return str(found.ipv4_mapped or found)
    return str(ipaddress.IPv4Address(raw[:4])) if len(raw) >= 4 else "0.0.0.0"
