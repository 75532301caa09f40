"""Reading a checkpoint while others remove: it is read whole, or said to have been removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_kit import chunk_files, die, in_child, mixed, save

from jupyter_ckpt.errors import CheckpointNotFound, ChunkMissing
from jupyter_ckpt.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_reader_keeps_chunks_though_a_person_removes_the_checkpoint(
        store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "sources")
    with store.reading(saved):
        assert not store.remove_if(saved.id, lambda manifest: True)
        store.remove(saved.id)
        assert store.collect()["removed_chunks"] == 0
        store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out" / "a").read_bytes() == mixed()
    assert list((store.root / "tmp").iterdir()) == []
    store.collect()
    assert chunk_files(store) == []


def test_what_was_removed_meanwhile_is_not_called_damaged(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "sources")
    store.remove(saved.id)
    with pytest.raises(CheckpointNotFound, match="was removed while it was read"), \
            store.reading(saved):
        pass
    store.collect()
    for read in (lambda: store.materialise(saved, tmp_path / "out"), lambda: store.check(saved),
                 lambda: store.read_file(saved, "a"), lambda: store.names(saved)):
        with pytest.raises(CheckpointNotFound, match="was removed while it was read"):
            read()
    assert list((store.root / "tmp").iterdir()) == []


def test_what_is_there_and_lacks_a_chunk_is_damaged(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "sources")
    for path in chunk_files(store):
        path.unlink()
    with pytest.raises(ChunkMissing, match="is damaged"), store.reading(saved):
        pass


def test_reader_that_was_killed_keeps_nothing_after_the_next_collection(
        store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "sources")

    def read_and_die() -> None:
        with store.reading(saved):
            die()

    assert in_child(read_and_die) == -9
    store.collect()
    assert store.remove_if(saved.id, lambda manifest: True)


def test_removal_asks_about_the_checkpoint_as_it_is(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "sources")
    store.update(saved.id, pinned=True)
    assert not store.remove_if(saved.id, lambda manifest: not manifest.pinned)
    assert store.holds(saved.id)
    store.update(saved.id, pinned=False)
    assert store.remove_if(saved.id, lambda manifest: not manifest.pinned)
    with pytest.raises(CheckpointNotFound):
        store.remove_if(saved.id, lambda manifest: True)
