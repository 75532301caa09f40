"""Ports for a new kernel that the system gives to nobody meanwhile."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path

from .protocol import PORT_NAMES

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15_000
_ATTEMPTS = 100


def kernel_ports(ip: str, but: Collection[int] = ()) -> dict[str, int]:
    """Return a free port for each channel, below those that the system hands out.

    None of `but`: ports that were chosen for other kernels, which may not have
    bound them yet.

    A kernel needs a second until it binds its ports, and ends when one is taken by
    then. Whoever asks the system for any port, or connects to somewhere, gets one
    of its own range; what lies below is nobody's who does not ask for it by number.
    Where no range is known or none of these is free, a channel has port 0: any.
    """
    found: list[int] = []
    with ExitStack() as bound, suppress(OSError, ValueError):
        lowest_given = int(_RANGE.read_text(encoding="ascii").split()[0])
        for port in random.sample(range(_LOWEST, lowest_given), _ATTEMPTS):
            if port in but:
                continue
            probe = bound.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((ip, port))
                found.append(port)
            if len(found) == len(PORT_NAMES):
                break
    return dict(zip(PORT_NAMES, [*found, *[0] * len(PORT_NAMES)]))
