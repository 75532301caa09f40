"""Locks between processes: flock, which the kernel takes back from a killed holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from ..errors import StoreUnusable

SHARED = fcntl.LOCK_SH
EXCLUSIVE = fcntl.LOCK_EX
LOCK_TIMEOUT_S = 60.0
"""Every hold is far shorter; a longer wait means that a holder was stopped."""


class LockFile:
    """One open lock file. Not for use by two threads at once: open another."""

    def __init__(self, path: Path | str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._path = path
        self._descriptor = os.open(path, flags, 0o600)

    def try_lock(self, kind: int) -> bool:
        """Take the lock if that needs no waiting; tell whether it was taken."""
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(self, kind: int, timeout_s: float | None = None) -> None:
        """Take the lock, waiting up to `timeout_s` (None: `LOCK_TIMEOUT_S`).

        Raises `StoreUnusable` after that.
        """
        if self.try_lock(kind):
            return
        timeout_s = LOCK_TIMEOUT_S if timeout_s is None else timeout_s
        deadline, pause_s = time.monotonic() + timeout_s, 0.0005
        while not self.try_lock(kind):
            if time.monotonic() > deadline:
                raise StoreUnusable(
                    f"Another process kept {self._path} locked for {timeout_s:.0f} s.",
                    f"See which with 'fuser {self._path}'; ending it frees the lock.")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.02)

    def unlock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextmanager
    def held(self, kind: int, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the lock during the body; raises `StoreUnusable` like `lock`."""
        self.lock(kind, timeout_s)
        try:
            yield
        finally:
            self.unlock()

    def close(self) -> None:
        """Release the lock and the file."""
        os.close(self._descriptor)

    def __enter__(self) -> LockFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
