"""The connections of an agent: bounded, and none is kept out by others that say nothing."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Lines:
    """Who is connected. A line *waits* until its request came in full, then it is *served*."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: dict[socket.socket, None] = {}
        """Oldest first."""
        self._served: set[socket.socket] = set()
        self._dropped: set[socket.socket] = set()

    def admit(self, line: socket.socket) -> bool:
        """Give `line` a place, if need be that of who has waited longest; False: none is free.

        Who loses its place reads the end of its request, and answers that.
        """
        with self._changed:
            if len(self._waiting) + len(self._served) >= self._most:
                if not self._waiting:
                    return False
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                self._dropped.add(oldest)
                with suppress(OSError):  # it has hung up
                    oldest.shutdown(socket.SHUT_RD)
            self._waiting[line] = None
            return True

    def serve(self, line: socket.socket) -> None:
        """Note that the request of `line` came in full: its place is not taken any more."""
        with self._changed:
            if line in self._waiting:
                del self._waiting[line]
                self._served.add(line)

    def is_dropped(self, line: socket.socket) -> bool:
        """Tell whether `line` has lost its place to another."""
        return line in self._dropped

    def leave(self, line: socket.socket) -> None:
        """Give the place of `line` back, whatever it was about."""
        with self._changed:
            self._waiting.pop(line, None)
            self._served.discard(line)
            self._dropped.discard(line)
            self._changed.notify_all()

    def await_none(self, timeout_s: float) -> bool:
        """Wait until every line has left; False when time is up first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._waiting or self._served or self._dropped), timeout_s)
