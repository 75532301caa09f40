"""Who may have a connection open, and when nobody may.

A process cannot be dumped while it is connected to anything outside its tree.
From *hold* (quiesce) to *release* (resume, finished, restored) this process
opens no connection of its own accord.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Silence:
    """A gate between this process's own requests and the moment of a dump."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._talkers: set[int] = set()
        self._held_for: str | None = None

    @property
    def held_for(self) -> str | None:
        """The request id of the checkpoint being made, None when there is none."""
        return self._held_for

    def hold(self, request_id: str, timeout_s: float) -> bool:
        """Forbid new connections and wait for open ones to end.

        Returns False, holding nothing, when one is still open after `timeout_s`.
        """
        with self._changed:
            previous, self._held_for = self._held_for, request_id
            if self._changed.wait_for(lambda: not self._talkers, timeout_s):
                return True
            self._held_for = previous
            self._changed.notify_all()
            return False

    def release(self) -> None:
        """Allow connections again."""
        with self._changed:
            self._held_for = None
            self._changed.notify_all()

    @contextmanager
    def broken(self, timeout_s: float | None = None) -> Iterator[bool]:
        """Yield whether a connection may be open for the length of the block.

        Waits while held, at most `timeout_s` (None: for ever; Ctrl-C ends it).
        """
        # A set of threads, not a number: Ctrl-C may strike between any two steps
        # here, and a number that is one too high would forbid checkpoints for ever.
        here = threading.get_ident()
        try:
            with self._changed:
                allowed = self._changed.wait_for(lambda: self._held_for is None, timeout_s)
                if allowed:
                    self._talkers.add(here)
            yield allowed
        finally:
            with self._changed:
                self._talkers.discard(here)
                self._changed.notify_all()


class Deadline:
    """Seconds left of a time span."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self, at_least_s: float = 0.0) -> float:
        return max(self._end - time.monotonic(), at_least_s)
