"""Whether ended processes go away: in a container whose process 1 is no init, they may not."""

from __future__ import annotations

import os
import subprocess
import time

REAPED_WITHIN_S = 3.0


def ended_are_reaped(deadline_s: float = REAPED_WITHIN_S) -> bool:
    """Tell whether somebody takes notice of the end of an orphan, as the dump roots are.

    Tried for real: a shell leaves one behind, which outlives it.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", "sleep 0.1 >&- 2>&- & echo $!"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, check=False)
    orphan = f"/proc/{done.stdout.strip()}"
    if not done.stdout.strip().isdigit():
        return True  # no process can be started: another check tells
    deadline = time.monotonic() + deadline_s
    while os.path.exists(orphan):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
