"""Which automatic checkpoints are removed, on a real store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_kernels import KERNEL_ID, OTHER_ID, a_manifest, stored

from jupyter_ckpt.agent import retention
from jupyter_ckpt.agent.retention import Retention
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

    def one(kernel_id: str = KERNEL_ID, **changes: Any) -> str:
        nonlocal count
        count += 1
        changes.setdefault("trigger", "interval")
        manifest = a_manifest(kernel_id, created_at=f"2026-01-01T00:{count:02}:00.000Z", **changes)
        return stored(store, manifest, data=b"%06d" % count * 20_000).id

    return one


def ids(store: Store) -> set[str]:
    return {m.id for m in store.manifests()}


def tidy(store: Store, keep: int, others: tuple[str, ...] = (), **changes: Any) -> list[str]:
    return Retention().tidy(store, Record(KERNEL_ID, **changes), keep, others)


def test_the_last_few_automatic_ones_stay(store: Store, save: Saved) -> None:
    saved = [save(trigger=trigger) for trigger in ("interval", "cell", "interval", "cell")]
    assert sorted(tidy(store, 2)) == sorted(saved[:2])
    assert ids(store) == set(saved[2:])
    assert tidy(store, 2) == []


@pytest.mark.parametrize("changes", [
    {"trigger": "manual"}, {"trigger": "magic"}, {"trigger": "api"}, {"trigger": "shutdown"},
    {"trigger": "cull"}, {"name": "first"}, {"pinned": True}])
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
        keeper.tidy(store, Record(KERNEL_ID), 3, ())
    assert proven == [saved[3], saved[6]]
    assert ids(store) == set(saved[4:])


def test_chunks_are_collected_after_many_removals(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "COLLECT_AFTER", 2)
    keeper, record = Retention(), Record(KERNEL_ID)

    def chunks() -> int:
        return sum(p.is_file() for p in (store.root / "chunks").rglob("*"))

    save()
    save()
    keeper.tidy(store, record, 1, ())
    before = chunks()
    save()
    keeper.tidy(store, record, 1, ())
    assert chunks() < before
    assert store.verify()["bad"] == []
