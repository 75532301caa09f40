"""Memory and processor time of processes, as the kernel accounts them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.processes import kill_all, trees
from jupyter_ckpt.box.hangup import reset_on_end
from jupyter_ckpt.procfs import ProcessId, rss_bytes, status_lines

__all__ = ["Idle", "idle", "kill_abruptly", "kill_all", "pss_bytes", "rss", "trees"]


SETTLED_AFTER_S = 0.5
SETTLE_DEADLINE_S = 10.0


@dataclass
class Idle:
    """What some processes did while nobody asked them for anything."""

    seconds: float
    cpu_s: float
    wakeups: int


def kill_abruptly(identities: Iterable[ProcessId]) -> None:
    """Send SIGKILL so that no port stays taken: connections are reset, not closed.

    Or each restore on the same ports would have to wait a minute first, ours
    and plain CRIU's alike.
    """
    wanted = list(identities)
    reset_on_end(identity.pid for identity in wanted)
    kill_all(wanted)


def pss_bytes(identities: Iterable[ProcessId]) -> int:
    """Return their resident memory, shared pages counted in proportion."""
    total = 0
    for identity in identities:
        lines = Path(f"/proc/{identity.pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def rss(identities: Iterable[ProcessId]) -> int:
    return sum(rss_bytes(identity.pid) for identity in identities)


def idle(identities: Iterable[ProcessId], seconds: float) -> Idle:
    """Watch processes for some seconds, to the nanosecond of processor time.

    From the moment on at which they are done with what was asked before: an agent
    tidies up for some milliseconds after it has answered.
    """
    wanted = list(identities)
    before = _settled(wanted)
    time.sleep(seconds)
    after = _spent(wanted)
    return Idle(seconds, (after[0] - before[0]) / 1e9, after[1] - before[1])


def _settled(identities: list[ProcessId]) -> tuple[int, int]:
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    before, after = _spent(identities), (-1, -1)
    while after != before and time.monotonic() < deadline:
        time.sleep(SETTLED_AFTER_S)
        before, after = after, _spent(identities)
    return after


def _spent(identities: list[ProcessId]) -> tuple[int, int]:
    nanoseconds = wakeups = 0
    for identity in identities:
        for task in Path(f"/proc/{identity.pid}/task").iterdir():
            nanoseconds += int((task / "schedstat").read_text().split()[0])
            wakeups += int(status_lines_of_task(task)["voluntary_ctxt_switches"])
    return nanoseconds, wakeups


def status_lines_of_task(task: Path) -> dict[str, str]:
    return status_lines(int(task.name))
