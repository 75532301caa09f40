"""Cases of the store alone: a forked writer suffers, then the store is examined."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from fault_plan import FaultPlan
from store_kit import chunk_files, mixed, noise, save

from jupyter_ckpt.agent.retention import Retention
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.plan import Schedule
from jupyter_ckpt.procfs import stat_fields
from jupyter_ckpt.record import Record
from jupyter_ckpt.store import Store

from .matrix import Case
from .outcome import Outcome

KERNEL_ID = "0f6b2ff8-6f2b-4f6e-9b43-0d2f8f3d5a11"
AUTOMATIC = ("aaaa11112221", "aaaa11112222", "aaaa11112223")
"""Made by themselves, oldest first; a schedule keeps the last one."""
OLD, NEXT, SPARE = "beef11112222", "feed11112222", "cafe11112222"
DEADLINE_S = 20.0
STAND_STILL_S = 0.05
CONTENT = {"a": mixed(), "b": noise(300_000, 7)}


class StoreStage:
    """One fresh store for each case, in `folder`; nobody else uses it."""

    def __init__(self, folder: Path, plan: FaultPlan) -> None:
        self._folder, self._plan = folder, plan

    def run(self, case: Case) -> Outcome:
        """Play one case. The plan counts for this process, too: so it forks its writer."""
        outcome = Outcome(case.id)
        place = self._folder / "store-case"
        place.mkdir()
        try:
            self._play(case, outcome, place)
        finally:
            self._plan.disarm()
            shutil.rmtree(place)
        return outcome

    def _play(self, case: Case, outcome: Outcome, place: Path) -> None:
        if case.operation != "create":
            _prepare(place)
        self._plan.arm({"point": case.point, "nth": case.nth, "act": case.act})
        pid = _forked(lambda: _ACTS[case.operation](place))
        if case.waits:
            self._let_go(pid, case, outcome, place)
        code = _awaited(pid)
        self._plan.disarm()
        outcome.fired = self._plan.fired()
        outcome.first = {0: "done", 1: "refused", 2: "crashed", -9: "killed"}.get(code, str(code))
        expected = {"kill": "killed", "stop": "done", "hang": "done"}.get(case.act, "refused")
        if outcome.first != expected:
            outcome.broken.append(f"the writer {outcome.first}, not {expected}")
        _examine(case, outcome, place)

    def _let_go(self, pid: int, case: Case, outcome: Outcome, place: Path) -> None:
        """While the writer stands still others read; then it goes on."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._plan.fired() and time.monotonic() < deadline:
            time.sleep(0.002)
        while (case.act == "stop" and (stat_fields(pid) or "T")[0] != "T"
               and time.monotonic() < deadline):
            time.sleep(0.002)  # the sign of it comes before the signal
        time.sleep(STAND_STILL_S)
        if case.operation != "create":
            store = Store.open(place / "store")
            bad = store.verify()["bad"] + store.problems()
            if bad:
                outcome.half_visible += len(bad)
                outcome.broken.append(f"while the writer stands still: {bad}")
        self._plan.disarm()
        os.kill(pid, signal.SIGCONT)


def _prepare(place: Path) -> None:
    store = Store.open(place / "store")
    save(store, {"a": mixed()[:200_000]}, place / "in", id=OLD, note="old")
    save(store, {"c": noise(900_000, 3)}, place / "in", id=SPARE)
    for number, name in enumerate(AUTOMATIC):
        save(store, {"d": noise(200_000, number)}, place / "in", id=name, trigger="interval",
             kernel={"name": "python3", "id": KERNEL_ID},
             created_at=f"2026-01-01T00:0{number}:00.000Z")
    if len(chunk_files(store)) < 8:
        raise AssertionError("too few chunks to collect")


def _collect(place: Path) -> None:
    store = Store.open(place / "store")
    store.remove(SPARE)
    store.collect()


def _retain(place: Path) -> None:
    record = Record(KERNEL_ID, schedule=Schedule(60.0, None, 1))
    Retention().tidy(Store.open(place / "store"), record, ())


def _save_next(place: Path) -> None:
    save(Store.open(place / "store"), CONTENT, place / "in", id=NEXT, name="next")


_ACTS: dict[str, Callable[[Path], object]] = {
    "create": lambda place: Store.open(place / "store"),
    "transaction": _save_next,
    "update": lambda place: Store.open(place / "store").update(OLD, note="new"),
    "remove": lambda place: Store.open(place / "store").remove(SPARE),
    "collect": _collect,
    "retain": _retain,
}


def _forked(act: Callable[[], object]) -> int:
    """Run `act` in a child; it exits 0, 1 (a named error) or 2 (any other)."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            act()
            status = 0
        except CheckpointError:
            status = 1
        finally:
            os._exit(status)
    return pid


def _awaited(pid: int) -> int:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return 99
        time.sleep(0.002)


def _examine(case: Case, outcome: Outcome, place: Path) -> None:
    """The old is whole, the new whole or absent, the rest goes, the next save succeeds."""
    store = Store.open(place / "store")
    ids = {one.id for one in store.manifests()}
    bad = store.verify()["bad"] + store.problems()
    outcome.half_visible += len(bad)
    outcome.broken += [f"half visible: {one}" for one in bad]
    outcome.broken += _unpromised(case, outcome, store, ids)
    store.collect()
    if left := _leftovers(store):
        outcome.broken.append(f"gc left {left}")
    if NEXT not in ids:
        _save_next(place)
    if {name: store.read_file(store.resolve("next"), name) for name in CONTENT} != CONTENT:
        outcome.broken.append("the next save reads back other bytes")
    if store.verify()["bad"]:
        outcome.broken.append("gc took what a checkpoint needs")


def _unpromised(case: Case, outcome: Outcome, store: Store, ids: set[str]) -> list[str]:
    """Return what is visible and should not be, or the other way round."""
    done = outcome.first == "done"
    found = []
    if case.operation != "create" and not {OLD, AUTOMATIC[-1]} <= ids:
        found.append("a checkpoint that nobody removed is gone")
    if case.operation == "retain" and done and ids & set(AUTOMATIC[:-1]):
        found.append("a checkpoint that was to go is there")
    if case.operation == "transaction":
        if done and NEXT not in ids:
            found.append("a checkpoint was promised and is not there")
        if outcome.first == "refused" and NEXT in ids:
            found.append("a checkpoint was refused and is there")
    elif case.operation == "update" and OLD in ids:
        note = store.resolve(OLD).note
        if note not in ("old", "new") or (done and note != "new"):
            found.append(f"the note is {note!r}")
    elif case.operation == "remove" and done and SPARE in ids:
        found.append("a removed checkpoint is there")
    return found


def _leftovers(store: Store) -> list[str]:
    found = [path.name for path in (store.root / "tmp").iterdir()]
    found += [path.name for path in (store.root / "manifests").iterdir() if path.suffix != ".json"]
    needed = {"key", "chunks", "manifests", "tmp", "lock", "names.lock", "collect.lock"}
    found += [path.name for path in store.root.iterdir() if path.name not in needed]
    if store.collect()["removed_chunks"]:
        found.append("chunks that a second gc removed")
    return found


