"""Which automatic checkpoints are removed, on a real store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_kernels import KERNEL_ID, OTHER_ID, a_manifest, stored

from jupyter_ckpt.agent import retention
from jupyter_ckpt.agent.overflow import relieve
from jupyter_ckpt.agent.proofs import Proofs
from jupyter_ckpt.agent.retention import Retention
from jupyter_ckpt.agent.storing import Storing
from jupyter_ckpt.manifest import utc_after, utc_now
from jupyter_ckpt.plan import Schedule
from jupyter_ckpt.record import Record
from jupyter_ckpt.store import Store

NOTEBOOK = "/home/ada/job.ipynb"
Saved = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def save(store: Store) -> Saved:
    count = 0

    def one(kernel_id: str = KERNEL_ID, at: str | None = None, **changes: Any) -> str:
        nonlocal count
        count += 1
        changes.setdefault("trigger", "interval")
        created_at = at or f"2026-01-01T00:{count:02}:00.000Z"
        manifest = a_manifest(kernel_id, created_at=created_at, **changes)
        return stored(store, manifest, data=b"%06d" % count * 20_000).id

    return one


def ids(store: Store) -> set[str]:
    return {m.id for m in store.manifests()}


def tidy(store: Store, keep: int, others: tuple[str, ...] = (), **changes: Any) -> list[str]:
    return Retention().tidy(store, scheduled(keep, **changes), others)


def scheduled(keep: int, hourly: int | None = None, daily: int | None = None, **changes: Any
              ) -> Record:
    return Record(KERNEL_ID, schedule=Schedule(60.0, None, keep, hourly, daily), **changes)


def test_the_last_few_automatic_ones_stay(store: Store, save: Saved) -> None:
    saved = [save(trigger="pressure"), save(purpose="pressure"), save(), save(trigger="cell")]
    assert sorted(tidy(store, 2)) == sorted(saved[:2])
    assert ids(store) == set(saved[2:])
    assert tidy(store, 2) == []


@pytest.mark.parametrize("changes", [
    {"trigger": "manual"}, {"trigger": "magic"}, {"trigger": "api"}, {"trigger": "shutdown"},
    {"trigger": "cull"}, {"name": "first"}, {"pinned": True}, {"parked": True}])
def test_what_somebody_wanted_stays_and_does_not_count(
        store: Store, save: Saved, changes: dict[str, Any]) -> None:
    wanted = [save(**changes)]
    old, last = save(), save()
    assert tidy(store, 1) == [old]
    assert ids(store) == {*wanted, last}


def test_other_kernels_keep_theirs(store: Store, save: Saved) -> None:
    theirs = [save(OTHER_ID), save(OTHER_ID, notebook={"path": NOTEBOOK, "sha256": ""})]
    ours = [save(notebook={"path": NOTEBOOK, "sha256": ""}) for _ in range(2)]
    assert tidy(store, 1, (OTHER_ID, KERNEL_ID), notebook=NOTEBOOK) == ours[:1]
    assert ids(store) == {*theirs, ours[1]}


def test_what_an_ended_kernel_left_of_the_notebook_goes_too(store: Store, save: Saved) -> None:
    left = save(OTHER_ID, notebook={"path": NOTEBOOK, "sha256": ""})
    elsewhere = save(OTHER_ID, notebook={"path": "/home/ada/other.ipynb", "sha256": ""})
    ours = [save(notebook={"path": NOTEBOOK, "sha256": ""}) for _ in range(2)]
    assert tidy(store, 2, (KERNEL_ID,), notebook=NOTEBOOK) == [left]
    assert ids(store) == {elsewhere, *ours}


def day(text: str) -> str:
    """Return an instant of January 2026, ``"DD HH:MM"``."""
    return f"2026-01-{text[:2]}T{text[3:]}:00.000Z"


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hours and days are those of the machine's own time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_the_newest_of_each_hour_and_day_stays_besides(store: Store, save: Saved) -> None:
    times = ["01 09:00", "01 23:59", "02 10:00", "03 10:10", "03 10:50", "03 12:10", "03 12:20",
             "03 12:30"]
    saved = {at: save(at=day(at)) for at in times}
    Retention().tidy(store, scheduled(1, hourly=2, daily=3), ())
    assert ids(store) == {saved[at] for at in ("01 23:59", "02 10:00", "03 10:50", "03 12:30")}
    Retention().tidy(store, scheduled(1, hourly=0, daily=2), ())
    assert ids(store) == {saved[at] for at in ("02 10:00", "03 12:30")}


@pytest.mark.usefixtures("utc")
def test_hours_without_a_checkpoint_do_not_count(store: Store, save: Saved) -> None:
    saved = {at: save(at=day(at)) for at in ("01 01:00", "04 07:00", "09 23:00", "09 23:30")}
    Retention().tidy(store, scheduled(1, hourly=2), ())
    assert ids(store) == {saved["04 07:00"], saved["09 23:30"]}


@pytest.mark.parametrize("schedule", [None, Schedule(60.0, None, 1)])
def test_copies_made_for_safety_go_also_without_a_schedule(
        store: Store, save: Saved, schedule: Schedule | None) -> None:
    before = [save(trigger="api", purpose="before-restore") for _ in range(5)]
    forks = [save(trigger="api", purpose="fork") for _ in range(4)]
    culled = [save(trigger="cull") for _ in range(4)]
    parked = [save(trigger="shutdown", parked=True) for _ in range(4)]
    wanted = save(trigger="api")
    automatic = save()
    removed = Retention().tidy(store, Record(KERNEL_ID, schedule=schedule), ())
    assert set(removed) == {*before[:2], forks[0], culled[0]}
    assert ids(store) == {*before[2:], *forks[1:], *culled[1:], *parked, wanted, automatic}


def test_what_is_about_to_be_restored_stays(store: Store, save: Saved) -> None:
    before = [save(trigger="api", purpose="before-restore") for _ in range(5)]
    assert Retention().tidy(store, Record(KERNEL_ID), (), lambda: {before[0]}) == [before[1]]


def test_what_is_made_after_the_clock_was_set_back_is_the_newest(store: Store, save: Saved) -> None:
    ours = save(at="2099-01-01T00:00:00.000Z")
    theirs = save(OTHER_ID, at="2099-06-01T00:00:00.000Z")
    save(OTHER_ID, at="2099-09-09T09:09:09.999Z",
         notebook={"path": NOTEBOOK, "sha256": ""})
    for record, after in [
            (Record(KERNEL_ID), "2099-01-01T00:00:00.001Z"),
            (Record(KERNEL_ID, parent=theirs), "2099-06-01T00:00:00.001Z"),
            (Record(KERNEL_ID, parent=ours, notebook=NOTEBOOK), "2099-09-09T09:09:10.000Z")]:
        making = Storing(cast(Any, SimpleNamespace(record=record)), {}, cast(Any, None), "4.1")
        assert making.moment(store) == after
    assert utc_after(["2026-01-01T00:00:00.000Z"]) <= utc_now()
    assert utc_after(["9999-12-31T23:59:59.999Z"]) <= utc_now()  # no later one is there
    assert utc_after(["no time"]) <= utc_now()


def test_nothing_goes_for_what_was_removed_while_it_was_proven(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    old, last = save(), save()
    check = Store.check
    monkeypatch.setattr(Store, "check", lambda self, m: (check(self, m), store.remove(last)))
    assert tidy(store, 1) == []
    assert ids(store) == {old}


@pytest.mark.parametrize("claim", [{"pinned": True}, {"name": "keep me"}, {"parked": True}, None])
def test_what_somebody_claims_while_others_are_proven_stays(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch, claim: dict[str, Any] | None
) -> None:
    old, last = save(), save()
    needed: set[str] = set()
    check = Store.check

    def slow_check(self: Store, manifest: Any) -> None:
        check(self, manifest)
        if claim is None:
            needed.add(old)
        else:
            store.update(old, **claim)

    monkeypatch.setattr(Store, "check", slow_check)
    assert Retention().tidy(store, scheduled(1), (), lambda: needed) == []
    assert ids(store) == {old, last}


def test_what_is_being_read_stays(store: Store, save: Saved) -> None:
    old = store.resolve(save())
    save()
    with store.reading(old):
        assert tidy(store, 1) == []
        store.set_quota(1000)
        assert relieve(store, Proofs()) == []
    assert tidy(store, 1) == [old.id]


def test_damage_is_told_once_and_what_was_removed_is_none(store: Store, save: Saved) -> None:
    told: list[str] = []
    keeper = Retention(Proofs(lambda error: told.append(error.message)))
    saved = [save() for _ in range(3)]
    damage(store, saved[2], set(saved[:2]))
    for _ in range(2):
        assert keeper.tidy(store, scheduled(1), ()) == []
    assert len(told) == 1
    assert saved[2] in told[0]
    gone = store.resolve(saved[0])
    store.remove(gone.id)
    for path in (store.root / "chunks").rglob("*"):
        if path.is_file():
            path.unlink()
    assert not Proofs(lambda error: told.append(error.message))._prove(store, gone)
    assert len(told) == 1


def test_whole_but_older_one_makes_up_for_nothing(store: Store, save: Saved) -> None:
    by_hand, old, last = save(trigger="manual"), save(), save()
    damage(store, last, {by_hand, old})
    assert tidy(store, 1) == []
    assert ids(store) == {by_hand, old, last}


def damage(store: Store, checkpoint_id: str, others: set[str]) -> None:
    """Remove the chunks that only this checkpoint has."""
    chunks = {p for p in (store.root / "chunks").rglob("*") if p.is_file()}
    for path in chunks:
        path.rename(path.with_suffix(".away"))
        bad = {b["id"] for b in store.verify(sorted(others))["bad"]}
        if bad:
            path.with_suffix(".away").rename(path)
    assert [b["id"] for b in store.verify()["bad"]] == [checkpoint_id]


def test_nothing_goes_while_what_stays_is_damaged(store: Store, save: Saved) -> None:
    saved = [save() for _ in range(3)]
    damage(store, saved[2], set(saved[:2]))
    assert tidy(store, 1) == []
    assert ids(store) == set(saved)
    assert tidy(store, 2) == [saved[0]]  # one of the two that stay is whole


def test_one_proof_is_enough_while_it_stays(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    proven: list[str] = []
    check = Store.check
    monkeypatch.setattr(Store, "check", lambda self, m: (proven.append(m.id), check(self, m)))
    keeper = Retention()
    saved: list[str] = []
    for _ in range(7):
        saved.append(save())
        keeper.tidy(store, scheduled(3), ())
    assert proven == [saved[3], saved[6]]
    assert ids(store) == set(saved[4:])


def test_chunks_are_collected_after_many_removals(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "COLLECT_AFTER", 2)
    keeper, record = Retention(), scheduled(1)

    def chunks() -> int:
        return sum(p.is_file() for p in (store.root / "chunks").rglob("*"))

    store.collect()
    save()
    save()
    keeper.tidy(store, record, ())
    keeper.collect(store)
    before = chunks()
    save()
    keeper.tidy(store, record, ())
    keeper.collect(store)
    assert chunks() < before
    assert store.verify()["bad"] == []


def test_chunks_are_collected_after_a_day_however_few_were_removed(
        store: Store, save: Saved) -> None:
    def chunks() -> int:
        return sum(p.is_file() for p in (store.root / "chunks").rglob("*"))

    store.collect()
    store.remove(save())
    before = chunks()
    Retention().collect(store)  # each agent lives for one removal only
    assert chunks() == before
    yesterday = time.time() - retention.COLLECT_EVERY_S - 60
    os.utime(store.root / "collect.lock", (yesterday, yesterday))
    Retention().collect(store)
    assert chunks() == 0
    assert store.collection_age_s() < retention.COLLECT_EVERY_S
    os.utime(store.root / "collect.lock", (2e9 * 2, 2e9 * 2))  # the clock was set back
    assert store.collection_age_s() > retention.COLLECT_EVERY_S
