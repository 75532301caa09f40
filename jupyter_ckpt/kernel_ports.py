"""Ports for a new kernel that nobody else is given meanwhile."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Collection
from pathlib import Path

from .protocol import PORT_NAMES

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
_ATTEMPTS = 100
HELD_S = 30.0
"""How long others keep off ports that were chosen; a kernel binds its own within seconds."""
_held: dict[int, tuple[float, socket.socket]] = {}
"""The first of five ports each: when it was chosen, and the sign of it."""


def kernel_ports(ip: str, but: Collection[int] = ()) -> dict[str, int]:
    """Return a free port for each channel, below those that the system hands out.

    None of `but`: ports that were chosen for other kernels of this process.

    A kernel needs a second until it binds its ports, and ends when one is taken by
    then. Whoever asks the system for any port, or connects to somewhere, gets one
    of its own range; what lies below is nobody's who does not ask for it by number.
    And who chooses ports for a kernel like this, in whatever process of this
    network, passes over what this process has chosen, for `HELD_S` or its life.
    Where no range is known or none of these is free, all have port 0: any.
    """
    now = time.monotonic()
    for first in [first for first, (since, _) in _held.items() if now - since > HELD_S]:
        _held.pop(first)[1].close()
    for first in _choices():
        ports = range(first, first + len(PORT_NAMES))
        sign = None if not set(but).isdisjoint(ports) else _sign(first)
        if sign is None:
            continue
        if all(_is_free(ip, port) for port in ports):
            _held[first] = (now, sign)
            return dict(zip(PORT_NAMES, ports))
        sign.close()
    return dict.fromkeys(PORT_NAMES, 0)


def keep(connection: dict[str, object] | None) -> socket.socket | None:
    """Keep others off the ports in `connection` until what is returned is closed.

    For an agent: who has chosen them for its kernel may be gone before they are bound.
    """
    first = (connection or {}).get(PORT_NAMES[0])
    return unique_name(f"kept ports {first}") if isinstance(first, int) else None


def _choices() -> list[int]:
    """Return first ports to try. Neighbours, so that two choices are the same or apart."""
    try:
        lowest_given = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return []
    first = range(_LOWEST, lowest_given - len(PORT_NAMES), len(PORT_NAMES))
    return random.sample(first, min(_ATTEMPTS, len(first)))


def _sign(first: int) -> socket.socket | None:
    """Return the sign that ports are chosen, None where they are, or kept by an agent."""
    kept = unique_name(f"kept ports {first}")
    if kept is None:
        return None
    kept.close()
    return unique_name(f"kernel ports {first}")


def unique_name(name: str) -> socket.socket | None:
    """Return a name that only one process of this network can have, None where another has it."""
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sign.bind(f"\0jupyter_ckpt {name}")
    except OSError:
        sign.close()
        return None
    return sign


def _is_free(ip: str, port: int) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind((ip, port))
    except OSError:
        return False
    return True
