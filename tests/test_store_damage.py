"""Bad bytes anywhere give a named error and change nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kit import (
    chunk_files,
    fast_folder,
    manifest,
    manifest_file,
    mixed,
    noise,
    rot,
    save,
    text,
)

from jupyter_ckpt.errors import ChunkCorrupt, ChunkMissing, IntegrityError
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.store import Store


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture
def store(folder: Path) -> Store:
    return Store.open(folder / "store")


@pytest.fixture
def saved(store: Store, folder: Path) -> Manifest:
    return save(store, {"a": mixed(), "b": text(1000)}, folder / "in", note="note")


def read_all(store: Store, folder: Path, checkpoint_id: str) -> None:
    """Do all that reads a checkpoint; at least one of it must notice any damage."""
    saved = store.resolve(checkpoint_id)
    store.check(saved)
    store.materialise(saved, folder / "out")


def snapshot(store: Store) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_every_flipped_byte_is_noticed(store: Store, saved: Manifest, folder: Path) -> None:
    unnamed = 0
    harmless = 0  # a few bits of a zstd frame mean nothing: the proven bytes are right then
    for path in (*chunk_files(store), manifest_file(store, saved)):
        whole = path.read_bytes()
        step = max(1, len(whole) // 150)
        for position in {*range(0, min(len(whole), 40)), *range(0, len(whole), step),
                         len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[position] ^= 0x20
            path.write_bytes(damaged)
            before = snapshot(store) if position == 0 else None
            try:
                store.check(store.resolve(saved.id))
            except IntegrityError as error:
                unnamed += saved.id not in error.message
            else:
                harmless += 1
                assert store.read_file(saved, "a") == mixed()
                assert path.read_bytes()[:4] == b"JCZ1"
            if before is not None:
                with pytest.raises(IntegrityError):
                    store.materialise(store.resolve(saved.id), folder / "out")
                (bad,) = store.verify()["bad"]
                assert bad["id"] == saved.id
                assert snapshot(store) == before
        path.write_bytes(whole)
    assert unnamed == 0
    assert harmless < 10
    read_all(store, folder, saved.id)


@pytest.mark.parametrize("keep", [0, 1, 15, 16, 17, -2])
def test_every_truncated_file_is_noticed(store: Store, saved: Manifest, folder: Path, keep: int
                                         ) -> None:
    for path in (*chunk_files(store), manifest_file(store, saved)):
        whole = path.read_bytes()
        path.write_bytes(whole[:keep])
        with pytest.raises(IntegrityError):
            read_all(store, folder, saved.id)
        path.write_bytes(whole + b"\0")
        with pytest.raises(IntegrityError):
            read_all(store, folder, saved.id)
        path.write_bytes(whole)
    read_all(store, folder, saved.id)


def test_every_missing_chunk_is_named(store: Store, saved: Manifest, folder: Path) -> None:
    for path in chunk_files(store):
        path.rename(folder / "aside")
        with pytest.raises(ChunkMissing) as caught:
            store.check(saved)
        assert path.name in caught.value.message
        assert saved.id in caught.value.message
        with pytest.raises(ChunkMissing):
            store.materialise(saved, folder / "out")
        (folder / "aside").rename(path)


def test_swapped_chunks_are_noticed(store: Store, saved: Manifest) -> None:
    first, second = [path for path in chunk_files(store) if path.stat().st_size == 65536][:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(ChunkCorrupt):
        store.check(saved)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_chunk_that_is_no_file_is_noticed(store: Store, saved: Manifest, folder: Path, kind: str
                                          ) -> None:
    path = chunk_files(store)[0]
    path.rename(folder / "aside")
    if kind == "link":
        path.symlink_to(folder / "aside")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(IntegrityError):
        store.check(saved)


@pytest.mark.parametrize("damage", ["truncated", "missing", "emptied", "half a header"])
def test_chunk_that_is_not_whole_is_written_again(store: Store, saved: Manifest, folder: Path,
                                                  damage: str) -> None:
    for path in chunk_files(store):
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes({"truncated": whole[:-1], "emptied": b"",
                              "half a header": whole[:7]}[damage])
    with pytest.raises(IntegrityError):
        store.check(saved)
    again = save(store, {"a": mixed(), "b": text(1000)}, folder / "in")
    assert again.stored_bytes == saved.stored_bytes
    store.check(again)
    store.check(saved)


def test_decayed_chunk_is_written_again_when_asked_to_prove(store: Store) -> None:
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", mixed())
        transaction.commit(manifest())
    for path in chunk_files(store):
        rot(path)
    with store.transaction("a-request", prove_reused=True) as transaction:
        transaction.add_bytes("a", mixed())
        transaction.commit(manifest())
    assert store.verify() == {"checked": 2, "bad": []}


def test_decayed_chunks_that_were_noted_are_written_again_by_the_next_save(
    store: Store, saved: Manifest, folder: Path
) -> None:
    """They have their full length: a save would take them for whole."""
    chunks = [path for path in chunk_files(store) if path.name != saved.content]
    for path in chunks:
        rot(path)
    assert store.verify()["bad"]
    assert store.note_damage(saved.id) == len(chunks)
    assert store.collect()["removed_chunks"] == 0
    again = save(store, {"a": mixed(), "b": text(1000)}, folder / "in")
    assert store.verify() == {"checked": 2, "bad": []}, "the old checkpoint is mended, too"
    assert again.stored_bytes > 0
    assert list((store.root / "damaged").iterdir()) == []
    assert save(store, {"a": mixed(), "b": text(1000)}, folder / "in").stored_bytes == 0


def test_damaged_list_of_contents_is_noted(store: Store, saved: Manifest) -> None:
    rot(store.root / "chunks" / saved.content[:2] / saved.content)
    assert store.note_damage(saved.id) == 1


def test_note_of_a_chunk_that_was_put_back_from_a_backup_is_dropped(
    store: Store, saved: Manifest
) -> None:
    path = chunk_files(store)[0]
    whole = path.read_bytes()
    rot(path)
    assert store.note_damage(saved.id) == 1
    path.write_bytes(whole)
    store.collect()
    assert list((store.root / "damaged").iterdir()) == []


def test_whole_chunks_are_not_noted(store: Store, saved: Manifest) -> None:
    assert store.note_damage(saved.id) == 0
    assert not (store.root / "damaged").exists()


def test_one_bad_chunk_spoils_only_its_checkpoints(store: Store, folder: Path) -> None:
    good = save(store, {"a": noise(70_000, 1)}, folder / "in")
    known = set(chunk_files(store))
    bad = [save(store, {"a": noise(70_000, 2)}, folder / "in") for _ in range(2)]
    for path in set(chunk_files(store)) - known:
        path.write_bytes(b"")
    found = store.verify()
    assert found["checked"] == 3
    assert {one["id"] for one in found["bad"]} == {one.id for one in bad}
    assert store.verify([good.id]) == {"checked": 1, "bad": []}


def test_nothing_is_collected_while_a_manifest_cannot_be_read(store: Store, saved: Manifest,
                                                              folder: Path) -> None:
    other = save(store, {"c": noise(70_000, 5)}, folder / "in")
    path = manifest_file(store, other)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    before = snapshot(store)
    with pytest.raises(IntegrityError, match=other.id):
        store.collect()
    after = snapshot(store)
    after.pop(str(store.root / "collect.lock"))
    assert after == before
    store.remove(other.id)
    assert store.collect()["removed_chunks"] > 0
    store.check(saved)


def test_nothing_is_collected_while_a_content_tree_cannot_be_read(store: Store, saved: Manifest
                                                                  ) -> None:
    (store.root / "chunks" / saved.content[:2] / saved.content).unlink()
    before = chunk_files(store)
    with pytest.raises(ChunkMissing, match=saved.id):
        store.collect()
    assert chunk_files(store) == before
