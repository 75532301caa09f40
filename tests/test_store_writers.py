"""Several writers and a collector at once."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_kit import chunk_files, fast_folder, in_child, manifest, noise, save, text

from jupyter_ckpt.errors import CheckpointNotFound, NameTaken, StoreUnusable
from jupyter_ckpt.store import Store, collect, locks
from jupyter_ckpt.store.locks import EXCLUSIVE, SHARED, LockFile


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture
def store(folder: Path) -> Store:
    return Store.open(folder / "store")


def spawn(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return pid


def write_and_remove(root: Path, seed: int) -> None:
    """Save and remove checkpoints that share most of their chunks with other writers'."""
    store, dice = Store.open(root), random.Random(seed)
    mine: dict[str, bytes] = {}
    for round_number in range(25):
        data = b"".join(noise(65536, dice.randrange(12)) for _ in range(5)) + text(1000, seed)
        with store.transaction(f"writer-{seed}") as transaction:
            transaction.add_bytes("a", data)
            saved = transaction.commit(manifest())
        mine[saved.id] = data
        if len(mine) > 2:
            old = dice.choice(sorted(mine))
            del mine[old]
            store.remove(old)
        if round_number % 5 == 0:
            for one, expected in mine.items():
                assert store.read_file(store.resolve(one), "a") == expected


def collect_until(root: Path, stop: Path) -> None:
    store = Store.open(root)
    while not stop.exists():
        store.collect()


def test_writers_and_a_collector_never_lose_a_chunk(store: Store, folder: Path) -> None:
    stop = folder / "stop"
    collector = spawn(lambda: collect_until(store.root, stop))
    writers = [spawn(lambda seed=seed: write_and_remove(store.root, seed))  # type: ignore[misc]
               for seed in range(4)]
    results = [os.waitpid(pid, 0)[1] for pid in writers]
    stop.touch()
    assert os.waitpid(collector, 0)[1] == 0
    assert results == [0] * 4
    found = store.verify()
    assert found == {"checked": 8, "bad": []}
    for one in store.manifests():
        store.remove(one.id)
    store.collect()
    assert chunk_files(store) == []


def test_chunks_of_a_running_transaction_are_not_collected(store: Store, folder: Path) -> None:
    data = noise(300_000)
    old = save(store, {"a": data}, folder / "in")
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", data)
        assert transaction.new_bytes == 0
        store.remove(old.id)
        assert store.collect()["removed_chunks"] == 1  # the old content tree
        saved = transaction.commit(manifest())
    assert store.read_file(saved, "a") == data


def test_chunk_removed_before_it_is_met_is_written_anew(store: Store, folder: Path) -> None:
    data = noise(300_000)
    old = save(store, {"a": data}, folder / "in")
    with store.transaction("a-request") as transaction:
        store.remove(old.id)
        store.collect()
        transaction.add_bytes("a", data)
        assert transaction.new_bytes == 300_000
        saved = transaction.commit(manifest())
    assert store.read_file(saved, "a") == data


def test_collection_counts_what_it_removes(store: Store, folder: Path) -> None:
    kept = save(store, {"a": noise(200_000, 1)}, folder / "in")
    before = set(chunk_files(store))
    gone = save(store, {"a": noise(200_000, 1), "b": noise(300_000, 2)}, folder / "in")
    fresh = set(chunk_files(store)) - before
    size = sum(path.stat().st_size for path in fresh)
    assert store.collect() == {"removed_chunks": 0, "removed_bytes": 0}
    store.remove(gone.id)
    assert store.collect() == {"removed_chunks": len(fresh), "removed_bytes": size}
    assert set(chunk_files(store)) == before
    store.check(kept)


def test_checkpoint_made_anew_under_its_id_while_others_are_collected_stays_whole(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(store, {"a": noise(600_000, 1)}, folder / "in", note="damaged")

    def save_anew(name: str) -> None:
        if name == "gc.marked":
            store.remove(first.id)
            save(store, {"a": noise(600_000, 2)}, folder / "in", id=first.id)

    monkeypatch.setattr(collect, "point", save_anew)
    store.collect()
    again = store.resolve(first.id)
    assert again.note is None
    assert store.verify() == {"checked": 1, "bad": []}
    assert store.read_file(again, "a") == noise(600_000, 2)
    monkeypatch.undo()
    store.remove(again.id)
    store.collect()
    assert chunk_files(store) == []


def test_checkpoint_that_is_renamed_while_others_are_collected_stays_whole(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(store, {"a": noise(600_000, 1)}, folder / "in")
    store.remove(save(store, {"a": noise(600_000, 2)}, folder / "in").id)
    monkeypatch.setattr(collect, "point", lambda name: store.update(saved.id, note=name))
    assert store.collect()["removed_chunks"] > 0
    assert store.verify() == {"checked": 1, "bad": []}


def test_two_collections_at_once_are_refused(store: Store) -> None:
    with LockFile(store.root / "collect.lock") as lock, lock.held(EXCLUSIVE):
        with pytest.raises(StoreUnusable, match="collection"):
            store.collect()


def test_only_one_of_many_gets_a_name(store: Store, folder: Path) -> None:
    def take_name() -> None:
        try:
            save(store, {"a": b"x"}, folder / f"in-{os.getpid()}", name="the one")
        except NameTaken:
            os._exit(3)

    children = [spawn(take_name) for _ in range(6)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(statuses) == [0] + [3] * 5
    assert [one.name for one in store.manifests()] == ["the one"]


def test_threads_share_a_store(store: Store, folder: Path) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                saved = save(store, {"a": noise(200_000, number)}, folder / f"in-{number}")
                store.check(saved)
                store.remove(saved.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.manifests() == []


def test_removed_while_listing_is_no_problem(store: Store, folder: Path) -> None:
    pid = spawn(lambda: [store.remove(save(store, {"a": b"x"}, folder / "in").id)  # type: ignore
                         for _ in range(60)])
    ended = False
    while not ended:
        assert store.problems() == []
        assert store.verify()["bad"] == []
        ended = os.waitpid(pid, os.WNOHANG) != (0, 0)


def test_lock_of_a_killed_process_is_free(folder: Path) -> None:
    def hold() -> None:
        lock = LockFile(folder / "lock")
        lock.lock(EXCLUSIVE)
        os.kill(os.getpid(), 9)

    assert in_child(hold) == -9
    with LockFile(folder / "lock") as lock:
        assert lock.try_lock(EXCLUSIVE)


def test_lock_that_is_never_freed_is_named(folder: Path) -> None:
    with LockFile(folder / "lock") as first, first.held(SHARED), LockFile(folder / "lock") as other:
        assert other.try_lock(SHARED)
        other.unlock()
        with pytest.raises(StoreUnusable, match="lock"):
            other.lock(EXCLUSIVE, timeout_s=0.05)


def test_stopped_lock_holder_does_not_hang_a_save(store: Store, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    monkeypatch.setattr(locks, "LOCK_TIMEOUT_S", 0.05)
    with LockFile(store.root / "lock") as lock, lock.held(EXCLUSIVE):
        with pytest.raises(StoreUnusable, match="locked"):
            store.transaction("a-request")


def test_checkpoint_removed_by_another_is_not_found(store: Store, folder: Path) -> None:
    saved = save(store, {"a": b"x"}, folder / "in")
    Store.open(store.root).remove(saved.id)
    with pytest.raises(CheckpointNotFound):
        store.update(saved.id, note="n")
