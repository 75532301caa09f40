"""What a schedule costs: an idle session of 1 GB, and a busy one.

Measured at a short interval, which takes no hours. What one save or one look
costs does not depend on the interval, so the cost at 5 minutes is computed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from jupyter_ckpt import kernels
from jupyter_ckpt.agent.activity import cpu_s
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.procfs import ProcessId, stat_fields
from jupyter_ckpt.store import Store

from .figures import Results, Row
from .ours import Ours
from .sessions import REWRITE, filled

MB, GB = 1e6, 1e9
EVERY_S = 10.0
INTERVALS = 6
USUAL_S = 300.0
WAIT_S = 300.0
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def measure(
    results: Results, folder: Path, env: dict[str, str], tell: Callable[[str], None]
) -> None:
    """Watch one session idle and then busy, under the same schedule."""
    tell("schedule: filling a session of 1 GB")
    ours = Ours(folder, env, filled(1000))
    kernels.schedule(ours.locations, ours.record, {"every_s": EVERY_S})
    _next(ours)
    _idle(results, ours, tell)
    _busy(results, ours, tell)
    ours.end()


def _idle(results: Results, ours: Ours, tell: Callable[[str], None]) -> None:
    before = len(_automatic(ours))
    agent, kernel = _agent_cpu(ours), cpu_s(ours.record.root)
    time.sleep(INTERVALS * EVERY_S)
    saves = len(_automatic(ours)) - before
    agent, kernel = _agent_cpu(ours) - agent, cpu_s(ours.record.root) - kernel
    tell(f"schedule, idle: {saves} saves in {INTERVALS} intervals, agent {agent:.2f} s, "
         f"kernel {kernel:.2f} s of processor time")
    share = 100 / INTERVALS / USUAL_S
    results.rows += [
        Row(f"schedule, idle 1 GB: saves in {INTERVALS} intervals after the first", "",
            [saves], goal=0, absolute=True),
        Row("schedule, idle 1 GB: agent's CPU, every 5 min", "% of a core", [agent * share],
            goal=0.1, absolute=True),
        Row("schedule, idle 1 GB: kernel's CPU for answering, every 5 min", "% of a core",
            [kernel * share], goal=0.1, absolute=True)]


def _busy(results: Results, ours: Ours, tell: Callable[[str], None]) -> None:
    ours.channel.run(REWRITE)
    _next(ours)  # this one belongs to the change from idle to busy
    agent = _agent_cpu(ours)
    saved = [_next(ours) for _ in range(INTERVALS)]
    cpu = (_agent_cpu(ours) - agent) / len(saved)
    tell(f"schedule, busy: {len(saved)} saves, {cpu:.2f} s of processor time each")
    pauses = [m.pause_s for m in saved]
    stored = [m.stored_bytes / MB for m in saved]
    results.rows += [
        Row("schedule, busy 1 GB: pause of a save", "s", pauses),
        Row("schedule, busy 1 GB: duration of a save", "s", [m.duration_s for m in saved]),
        Row("schedule, busy 1 GB: CPU of a save, tidying up included", "s", [cpu]),
        Row("schedule, busy 1 GB: stored by a save", "MB", stored),
        Row("schedule, busy 1 GB: standing still, every 5 min", "% of the time",
            [100 * median(pauses) / USUAL_S], goal=1, absolute=True),
        Row("schedule, busy 1 GB: CPU, every 5 min", "% of a core", [100 * cpu / USUAL_S]),
        Row("schedule, busy 1 GB: written, every 5 min", "GB an hour",
            [median(stored) * MB * 3600 / USUAL_S / GB])]
    results.remarks.append(
        f"schedule: measured every {EVERY_S:.0f} s, computed for every 5 min: a save and a "
        "look cost the same whatever the interval. The busy session rewrites half of its memory "
        "with noise between two saves; only the last 5 checkpoints stay.")


def _automatic(ours: Ours) -> list[Manifest]:
    """Return the checkpoints made by the schedule, newest first."""
    if not ours.locations.store_dir.exists():
        return []
    manifests = Store.open(ours.locations.store_dir).manifests()
    return [m for m in manifests if m.trigger == "interval"]


def _next(ours: Ours) -> Manifest:
    """Wait for the next automatic checkpoint and return it."""
    last = [m.id for m in _automatic(ours)[:1]]
    deadline = time.monotonic() + WAIT_S
    while not (found := _automatic(ours)) or [found[0].id] == last:
        if time.monotonic() > deadline:
            raise TimeoutError("No automatic checkpoint came.")
        time.sleep(0.2)
    return found[0]


def _agent_cpu(ours: Ours) -> float:
    """Return the processor time of the agent and the box's first process.

    What they have awaited is included: criu is their child.
    """
    record = kernels.find_kernel(ours.locations, ours.record.kernel_id)
    return sum(_cpu(identity) for identity in (record.agent, record.init) if identity is not None)


def _cpu(identity: ProcessId) -> float:
    fields = stat_fields(identity.pid)
    return sum(map(int, fields[11:15])) * _TICK_S if fields is not None else 0.0
