"""Bringing buffered text out before a checkpoint."""

from __future__ import annotations

import sys
from typing import Any

from .mainthread import in_thread


def flush_streams(kernel: Any, seconds: float) -> list[str]:
    """Flush Python's and C's output buffers; return what did not work.

    Each in a thread of its own with a deadline: C's `fflush(NULL)` waits for
    any thread that is inside a C read, and a user's stream may do anything.
    """
    warnings = []
    streams = {id(s): s for s in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__,
                                  getattr(kernel, "_stdout", None),
                                  getattr(kernel, "_stderr", None)) if s is not None}
    for stream in streams.values():
        act = in_thread(stream.flush, seconds)
        if not act.is_done(0):
            warnings.append(f"{getattr(stream, 'name', 'A stream')} could not be flushed in time.")
    if not in_thread(_flush_c, seconds).is_done(0):
        warnings.append("The C library's buffers could not be flushed in time.")
    return warnings


def _flush_c() -> None:
    import ctypes

    ctypes.CDLL(None).fflush(None)
