"""Keeping the ports that a restore has chosen until CRIU binds them."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace

from ..engine.sockets import Listener
from ..errors import RestoreRefused
from ..kernel_ports import unique_name


def is_free(listener: Listener) -> bool:
    """Tell whether CRIU could bind this port now (it reuses addresses)."""
    found = _bound(listener)
    if found is not None:
        found.close()
    return found is not None


def _bound(listener: Listener) -> socket.socket | None:
    """Return a socket with the address of `listener`, None when that is taken.

    Raises `RestoreRefused` when this machine does not have the address.
    """
    family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
    kind = socket.SOCK_STREAM if listener.protocol == "tcp" else socket.SOCK_DGRAM
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((listener.address, listener.port))
    except OSError as error:
        bound.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            return None
        raise RestoreRefused(
            f"The session listened on {listener.address}, which this machine does not have.",
            "Give the machine that address and restore again.") from error
    return bound


class Reservation:
    """Ports that only CRIU can bind, because it reuses addresses, until this is closed.

    Between the choice of a port and its use lie moments to seconds, in which the
    system would give it to anybody who asks for any. A name that only one process
    of this network can have keeps off the agents of other kernels, which reuse
    addresses as well: copies of one session all want the same ports.
    """

    def __init__(self) -> None:
        self._held: dict[object, socket.socket] = {}

    def take(self, listener: Listener) -> bool:
        """Keep the port of `listener` if it is free, and tell whether it was."""
        key = (listener.protocol, listener.port)  # may be had at several addresses
        name = None if key in self._held else unique_name(f"{key[0]} port {key[1]}")
        bound = _bound(listener) if name is not None or key in self._held else None
        if bound is None:
            if name is not None:
                name.close()
            return False
        if name is not None:
            self._held[key] = name
        if listener.protocol == "udp":  # two may have it, and it would take what arrives
            bound.close()
        else:
            self._held[listener] = bound
        return True

    def take_any(self, listener: Listener) -> int:
        """Keep another port of the same address; return its number."""
        while True:
            found = _bound(replace(listener, port=0))
            if found is None:
                raise RestoreRefused("All network ports of this machine are in use.",
                                     "End a program that has many, and restore again.")
            with found:
                port: int = found.getsockname()[1]
            if self.take(replace(listener, port=port)):
                return port

    def close(self) -> None:
        """Give the ports up to whoever has them by now, or wants them."""
        for one in self._held.values():
            one.close()
        self._held.clear()

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
