"""The agent's own memory: agents live for weeks, and what one act needed must not stay.

Only glibc is told anything: others give memory back by themselves.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_LIBC = ctypes.CDLL(None)
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
MAPPED_FROM_BYTES = 256 << 10
"""Blocks from this size on are mapped by themselves, and go back to the system when freed.

Set by hand, the limit no longer grows with the largest block freed so far.
"""
ARENAS = 2
"""Instead of eight for each processor, each with its own holes."""


def tame() -> None:
    """Keep the heap from growing with use; called once, before any thread starts."""
    with suppress(AttributeError):
        _LIBC.mallopt(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        _LIBC.mallopt(_M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return to the system what an act needed for a while."""
    with suppress(AttributeError):
        _LIBC.malloc_trim(0)
