"""What goes into a checkpoint comes out again, and only once onto the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_kit import PAGE, chunk_files, manifest, mixed, noise, save, text

from jupyter_ckpt.errors import Cancelled, DumpFailed, NotFound, RestoreFailed, UsageError
from jupyter_ckpt.store import CHUNK_BYTES, Extent, Store
from jupyter_ckpt.store.cutting import UNIT_BYTES, units


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


SHAPES = {
    "empty": b"",
    "one byte": b"x",
    "zeros": bytes(5 * CHUNK_BYTES + 7),
    "noise": noise(3 * CHUNK_BYTES + 5),
    "text": text(3 * CHUNK_BYTES),
    "mixed": mixed(),
    "several units": noise(CHUNK_BYTES) + bytes(UNIT_BYTES) + text(2 * UNIT_BYTES + 1),
    "looks compressed": b"JCZ1" + noise(CHUNK_BYTES - 4),
    "looks like a frame": b"JCZ1\x14" + bytes(7) + b"\x04\0\0\0abcd",
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES.keys())
def test_file_of_any_shape_comes_back(store: Store, tmp_path: Path, data: bytes) -> None:
    saved = save(store, {"images/pages-1.img": data}, tmp_path / "in")
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/images/pages-1.img").read_bytes() == data
    assert store.read_file(saved, "images/pages-1.img") == data
    store.check(saved)


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES.keys())
def test_bytes_of_any_shape_come_back(store: Store, tmp_path: Path, data: bytes) -> None:
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("inventory.json", data)
        saved = transaction.commit(manifest())
    assert store.read_file(saved, "inventory.json") == data
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/inventory.json").read_bytes() == data


def test_same_content_takes_no_room_twice(store: Store, tmp_path: Path) -> None:
    first = save(store, {"a": mixed(), "b": mixed()}, tmp_path / "in")
    before = set(chunk_files(store))
    second = save(store, {"a": mixed(), "b": mixed()}, tmp_path / "in")
    assert set(chunk_files(store)) == before
    assert first.stored_bytes == sum(path.stat().st_size for path in before)
    assert second.stored_bytes == 0
    assert second.content == first.content


def test_memory_that_moved_within_the_file_is_found_again(store: Store, tmp_path: Path) -> None:
    memory = noise(10 * CHUNK_BYTES)
    address = 0x7F0000000000
    save(store, {"pages": memory}, tmp_path / "in", [Extent(0, len(memory), address)])
    before = len(chunk_files(store))
    shifted = noise(3 * PAGE, 9) + memory
    saved = save(store, {"pages": shifted}, tmp_path / "in",
                 [Extent(0, 3 * PAGE, 0x500000000000), Extent(3 * PAGE, len(memory), address)])
    assert store.read_file(saved, "pages") == shifted
    assert len(chunk_files(store)) == before + 2  # the new pages and the new content tree


def test_pages_around_an_absent_one_stay_in_one_chunk() -> None:
    extents = [Extent(0, 2 * PAGE, 0x10000), Extent(2 * PAGE, PAGE, 0x10000 + 5 * PAGE),
               Extent(3 * PAGE, PAGE, 0x20000)]
    assert [unit.lengths for unit in units(4 * PAGE, extents)] == [(3 * PAGE, PAGE)]


def test_units_cover_the_file_without_gaps() -> None:
    size = 5 * UNIT_BYTES + 12345
    extents = [Extent(PAGE, 700_000, 0x1234000), Extent(2_000_000, 1_000_000, 0x999000)]
    position = 0
    for number, unit in enumerate(units(size, extents)):
        assert unit.index == number
        assert unit.offset == position
        assert 0 < sum(unit.lengths) <= UNIT_BYTES
        assert all(0 < length <= CHUNK_BYTES for length in unit.lengths)
        position += sum(unit.lengths)
    assert position == size


@pytest.mark.parametrize("extents", [
    [Extent(0, 200, 0), Extent(100, 100, 0x10000)],
    [Extent(0, 1001, 0)],
    [Extent(0, -1, 0)],
])
def test_extents_that_cannot_be_are_refused(store: Store, tmp_path: Path, extents: list[Extent]
                                            ) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1000))
    with store.transaction("a-request") as transaction, pytest.raises(UsageError):
        transaction.add_file("a", source, extents)


def test_zeros_become_holes(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": bytes(50 << 20)}, tmp_path / "in")
    assert saved.stored_bytes < 1000
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/a").stat().st_size == 50 << 20
    assert (tmp_path / "out/a").stat().st_blocks == 0


def test_mode_of_a_file_comes_back(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "script"
    source.write_bytes(b"#!/bin/sh\n")
    source.chmod(0o755)
    with store.transaction("a-request") as transaction:
        transaction.add_file("script", source)
        transaction.add_bytes("secret", b"x", mode=0o400)
        saved = transaction.commit(manifest())
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/script").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out/secret").stat().st_mode & 0o7777 == 0o400


def test_progress_adds_up(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(mixed() * 5)
    size = source.stat().st_size
    seen: list[int] = []
    with store.transaction("a-request") as transaction:
        transaction.add_file("a", source, None, seen.append)
        saved = transaction.commit(manifest())
    assert sum(seen) == size
    seen.clear()
    store.materialise(saved, tmp_path / "out", seen.append)
    assert sum(seen) == size


def test_error_from_progress_ends_the_transaction(store: Store, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: int) -> None:
        raise Cancelled

    source = tmp_path / "source"
    source.write_bytes(noise(3 * UNIT_BYTES))
    with store.transaction("a-request") as transaction:
        with pytest.raises(Cancelled):
            transaction.add_file("a", source, None, cancel)
        with pytest.raises(UsageError):
            transaction.commit(manifest())
    assert store.manifests() == []
    assert chunk_files(store) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_checkpoint_that_was_given_up_before_it_is_published_is_not_visible(store: Store) -> None:
    def given_up() -> None:
        assert chunk_files(store), "all but the manifest is on the disk"
        raise Cancelled("Nobody waits for it any more.")

    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", noise(100_000))
        with pytest.raises(Cancelled):
            transaction.commit(manifest(), given_up)
    assert store.manifests() == []
    store.collect()
    assert chunk_files(store) == []


def test_leaving_without_commit_leaves_nothing(store: Store) -> None:
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", mixed())
        assert transaction.new_bytes > 0
    assert chunk_files(store) == []
    assert list((store.root / "tmp").iterdir()) == []


def test_second_commit_is_refused(store: Store) -> None:
    with store.transaction("a-request") as transaction:
        transaction.commit(manifest())
        with pytest.raises(UsageError):
            transaction.commit(manifest())
    assert len(store.manifests()) == 1


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/.", "a\0b"])
def test_name_that_leaves_the_folder_is_refused(store: Store, name: str) -> None:
    with store.transaction("a-request") as transaction, pytest.raises(UsageError):
        transaction.add_bytes(name, b"x")


def test_name_given_twice_is_refused(store: Store) -> None:
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", b"x")
        with pytest.raises(UsageError):
            transaction.add_bytes("a", b"y")


@pytest.mark.parametrize("request_id", ["", "../x", "a/b", "x" * 65])
def test_request_id_that_is_no_name_is_refused(store: Store, request_id: str) -> None:
    with pytest.raises(UsageError):
        store.transaction(request_id)


def test_source_that_is_no_file_is_named(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with store.transaction("a-request") as transaction:
        for source in (tmp_path / "gone", tmp_path, tmp_path / "fifo"):
            with pytest.raises(DumpFailed, match=str(source)):
                transaction.add_file("a", source)
        transaction.commit(manifest())  # nothing was stored yet: the transaction goes on


def test_source_that_shrinks_is_named(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(noise(4 * UNIT_BYTES))

    def shrink(_: int) -> None:
        os.truncate(source, 100)

    with store.transaction("a-request") as transaction, pytest.raises(DumpFailed, match="shorter"):
        transaction.add_file("a", source, None, shrink)
    assert store.manifests() == []


def test_files_are_named_and_read_one_by_one(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"images/b": b"bb", "a": b"a"}, tmp_path / "in")
    assert store.names(saved) == ["a", "images/b"]
    with pytest.raises(NotFound):
        store.read_file(saved, "c")
    store.materialise(saved, tmp_path / "out", names=["a"])
    assert os.listdir(tmp_path / "out") == ["a"]
    with pytest.raises(NotFound):
        store.materialise(saved, tmp_path / "out", names=["a", "c"])


def test_links_where_files_are_made_are_not_followed(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"images/a": b"new", "b": b"new"}, tmp_path / "in")
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    out.mkdir()
    (outside / "b").write_bytes(b"old")
    (out / "b").symlink_to(outside / "b")
    store.materialise(saved, out, names=["b"])
    assert (outside / "b").read_bytes() == b"old"
    assert (out / "b").read_bytes() == b"new"
    (out / "images").symlink_to(outside)
    with pytest.raises(RestoreFailed):
        store.materialise(saved, out)
    assert os.listdir(outside) == ["b"]


def test_many_files_need_few_descriptors(store: Store, tmp_path: Path) -> None:
    with store.transaction("a-request") as transaction:
        for number in range(1500):
            transaction.add_bytes(f"f{number}", b"%d" % number)
        saved = transaction.commit(manifest())
    before = len(os.listdir("/proc/self/fd"))
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/f1499").read_bytes() == b"1499"
    assert len(os.listdir("/proc/self/fd")) == before
