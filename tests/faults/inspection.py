"""What is there: processes, runtime folders, checkpoints, leftovers of one place."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from jupyter_ckpt.agent.exchange import JOURNAL
from jupyter_ckpt.offers import offers_folder
from jupyter_ckpt.procfs import ProcessId, all_pids, descendants, stat_fields
from jupyter_ckpt.record import Record, all_records
from jupyter_ckpt.stale import sweep

from .place import Place
from .session import states_of

SETTLE_S = 8.0
STOPS_WITHIN_S = 0.5
T = TypeVar("T")


def settled(check: Callable[[], list[T]], most_s: float = SETTLE_S) -> list[T]:
    """Return what `check` still finds when it was asked for `most_s`; empty is best."""
    deadline = time.monotonic() + most_s
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def living(place: Place) -> list[Record]:
    return [r for r in all_records(place.locations.runtime_dir)[0] if r.is_alive()]


def our_pids(place: Place) -> dict[int, str]:
    """Return {pid: command line} of every process that works in `place`, but us."""
    found: dict[int, str] = {}
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(place.folder) in line and pid not in _ourselves():
            found[pid] = line[:160]
    return found


def _ourselves() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        fields = stat_fields(pid)
        if fields is None:
            break
        pid = int(fields[1])
    return found


def strays(place: Place) -> list[str]:
    """Return the processes that belong to no recorded kernel."""
    expected: set[int] = set()
    for record in living(place):
        if record.init is not None:
            expected.update(descendants(record.init.pid))
        if record.agent is not None:
            expected.add(record.agent.pid)
    return [f"{pid} {line}" for pid, line in our_pids(place).items()
            if pid not in expected and ProcessId.of(pid) is not None]


def stray_folders(place: Place) -> list[str]:
    """Return the runtime folders of kernels that do not live, after the next look.

    Which ``jupyter ckpt ps`` has, and a server that starts.
    """
    sweep(place.locations)
    alive = {record.kernel_id for record in living(place)}
    top = place.locations.runtime_dir
    return [path.name for path in top.iterdir()
            if path.is_dir() and path.name not in alive and path != offers_folder(top)]


def frozen(place: Place) -> list[str]:
    """Return the kernels that have a process or thread which stands still."""
    found = []
    for record in living(place):
        states = "".join(states_of(record.init))
        if "T" in states or "t" in states:
            found.append(f"{record.kernel_id[:8]} {states}")
    return found


def leftovers(place: Place, *folders: str) -> list[str]:
    """Return what lies in folders of the store that are empty when nobody works."""
    root = place.store.root
    return [f"{name}/{path.name}" for name in folders if (root / name).is_dir()
            for path in (root / name).iterdir()]


def half_exchanged(place: Place) -> list[str]:
    """Return what is left of putting files back that was not finished, undone or forgotten."""
    journals = place.locations.runtime_dir.glob(f"*/{JOURNAL}")
    return [str(path) for path in (*place.work.glob(".ckpt-*"), *journals)]


def backups(place: Place) -> set[str]:
    """Return the files of the user that restores have set aside."""
    return {str(path) for path in place.work.glob("*.before-restore-*")}


def let_stopped_go_on(place: Place, *more: int) -> None:
    """Send SIGCONT to every process of ours that was stopped.

    A fault is told of just before it strikes: one that is only about to stop is waited for.
    """
    settled(lambda: [] if _stopped(place, more) else [place], STOPS_WITHIN_S)
    for pid in _stopped(place, more):
        os.kill(pid, signal.SIGCONT)


def _stopped(place: Place, more: Sequence[int]) -> list[int]:
    pids = {*our_pids(place), *more}
    for record in living(place):
        if record.init is not None:
            pids.update(descendants(record.init.pid))
    return [pid for pid in pids if (fields := stat_fields(pid)) is not None and fields[0] == "T"]


def end_everything(place: Place) -> None:
    """End every process of `place`, and wait until all are gone."""
    def left() -> list[int]:
        pids = set(our_pids(place))
        for record in all_records(place.locations.runtime_dir)[0]:
            if record.init is not None and record.init.is_alive():
                pids.update(descendants(record.init.pid))
        alive = [pid for pid in pids if ProcessId.of(pid) is not None]
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return alive

    settled(left)
