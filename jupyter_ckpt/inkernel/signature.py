"""No message leaves a restored kernel before it knows the key that it is spoken to with.

A process that is restored goes on at once, with the key it was saved with. Another
key may be what Jupyter expects now, and a front end that meets one bad signature
may hear nothing of that kernel any more.
"""

from __future__ import annotations

import os
import threading
from typing import Any

WAIT_S = 10.0
"""How long a restored process waits to be told its key before it signs with the old one."""


class Signature:
    """Stands before ``session.sign``: it waits in a restored process, and nowhere else."""

    def __init__(self, session: Any) -> None:
        self._sign = session.sign
        self._pid = os.getpid()
        self._known = threading.Event()
        self._known.set()
        self._began = ""
        session.sign = self.sign

    def hold(self) -> None:
        """From now on a process that did not begin when this one did waits; before a dump."""
        self._began = _start_time()
        self._known.clear()

    def release(self) -> None:
        """The key is known, or nothing was restored."""
        self._known.set()

    def sign(self, parts: list[bytes]) -> bytes:
        """Sign a message as `jupyter_client` does, with the key of this incarnation."""
        if not self._known.is_set() and self._is_restored():
            self._known.wait(WAIT_S)
            self._known.set()
        signed: bytes = self._sign(parts)
        return signed

    def _is_restored(self) -> bool:
        # A restored process has its old pid and began anew; a forked child has a pid of its own.
        return os.getpid() == self._pid and _start_time() != self._began


def _start_time() -> str:
    """Return when this process began, as /proc counts it; '' where it cannot be told."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""
