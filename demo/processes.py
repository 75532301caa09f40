"""Which processes the demo started, and how it ends them for good."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from jupyter_ckpt.procfs import ProcessId, all_pids, descendants

DEADLINE_S = 30.0


def trees(pids: Iterable[int]) -> set[ProcessId]:
    """Return the living processes among `pids` with all their descendants."""
    found = {pid for top in pids for pid in descendants(top)}
    return {identity for identity in map(ProcessId.of, found) if identity is not None}


def marked_with(word: str) -> set[ProcessId]:
    """Return every process that has `word` in its environment, with its descendants.

    Whatever the demo starts has the demo's own folder there, also after a
    restore; the demo itself has not.
    """
    return trees(pid for pid in all_pids() if word.encode() in _environment(pid))


def kill_all(identities: Iterable[ProcessId]) -> list[ProcessId]:
    """Send SIGKILL to all of them and wait until they are gone; return who is left."""
    wanted = list(identities)
    for identity in wanted:
        if identity.is_alive():
            with suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while left := [identity for identity in wanted if identity.is_alive()]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            return environment.read()
    except OSError:
        return b""
