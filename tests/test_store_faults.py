"""Killed, full or failing at any system call: a checkpoint is whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from store_kit import (
    FaultyCalls,
    chunk_files,
    die,
    fast_folder,
    in_child,
    manifest,
    mixed,
    noise,
    save,
    text,
)

from jupyter_ckpt.errors import CheckpointError, OutOfSpace, StoreUnusable
from jupyter_ckpt.store import Store, transaction

FILES = {"a": mixed(), "b": text(100)}
NEW_ID = "feed11112222"


@pytest.fixture
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


def prepared(folder: Path) -> Store:
    """Return a store with one checkpoint, part of whose chunks the next one reuses."""
    store = Store.open(folder / "store")
    save(store, {"a": mixed()[:200_000]}, folder / "in", id="beef11112222")
    return store


def save_next(store: Store, folder: Path) -> None:
    save(store, FILES, folder / "in", id=NEW_ID, name="next")


def count_calls(folder: Path) -> int:
    store = prepared(folder / "count")
    with FaultyCalls(None, lambda: None) as calls:
        save_next(store, folder / "count")
    return calls.count


def assert_sound(store: Store, folder: Path) -> None:
    """The old checkpoint is whole, the new one whole or absent, and all goes on."""
    ids = {one.id for one in store.manifests()}
    assert "beef11112222" in ids
    assert store.problems() == []
    assert store.verify() == {"checked": len(ids), "bad": []}
    store.collect()
    assert list((store.root / "tmp").iterdir()) == []
    assert all(path.suffix == ".json" for path in (store.root / "manifests").iterdir())
    assert store.verify()["bad"] == []
    if NEW_ID not in ids:
        save_next(store, folder)
    new = store.resolve("next")
    assert {name: store.read_file(new, name) for name in FILES} == FILES
    store.remove(new.id)
    store.collect()
    assert store.verify() == {"checked": 1, "bad": []}


def test_kill_at_any_call_of_a_save_leaves_all_or_nothing(folder: Path) -> None:
    (folder / "count").mkdir()
    total = count_calls(folder)
    outcomes = set()
    for at in range(1, total + 1):
        place = folder / f"kill-{at}"
        place.mkdir()
        store = prepared(place)

        def killed(store: Store = store, place: Path = place, at: int = at) -> None:
            with FaultyCalls(at, die):
                save_next(store, place)

        status = in_child(killed)
        assert status in (-9, 0)  # threads: a run may need a call or two less than the count
        outcomes.add(NEW_ID in {one.id for one in store.manifests()})
        assert_sound(store, place)
    assert outcomes == {True, False}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_error_at_any_call_of_a_save_leaves_all_or_nothing(folder: Path, number: int) -> None:
    (folder / "count").mkdir()
    total = count_calls(folder)
    expected = OutOfSpace if number in (errno.ENOSPC, errno.EDQUOT) else StoreUnusable
    named = 0

    def fail() -> None:
        raise OSError(number, os.strerror(number))

    for at in range(1, total + 1):
        place = folder / f"fail-{at}"
        place.mkdir()
        store = prepared(place)
        source_call = False
        try:
            with FaultyCalls(at, fail) as calls:
                save_next(store, place)
        except CheckpointError as error:
            named += isinstance(error, expected)
            assert NEW_ID not in {one.id for one in store.manifests()}
        except OSError:
            source_call = True  # our own writing of the source files, before the store is asked
            assert "source" in calls.seen[-1][1] or "/in" in calls.seen[-1][1]
        assert source_call or len(os.listdir(store.root / "tmp")) <= 1
        assert_sound(store, place)
    assert named > total // 2


def test_kill_at_any_call_of_an_update_leaves_old_or_new(folder: Path) -> None:
    store = prepared(folder)
    with FaultyCalls(None, lambda: None) as calls:
        store.update("beef11112222", note="old")
    for at in range(1, calls.count + 1):
        store.update("beef11112222", note="old")

        def killed(at: int = at) -> None:
            with FaultyCalls(at, die):
                store.update("beef11112222", note="new")

        assert in_child(killed) == -9
        assert store.resolve("beef").note in ("old", "new")
        store.collect()
        assert os.listdir(store.root / "manifests") == ["beef11112222.json"]


def test_kill_at_any_call_of_a_collection_harms_no_checkpoint(folder: Path) -> None:
    store = prepared(folder)
    at = 0
    while True:
        at += 1
        save_next(store, folder)
        store.remove(NEW_ID)

        def killed(at: int = at) -> None:
            with FaultyCalls(at, die):
                store.collect()

        if in_child(killed) == 0:
            break
        assert store.verify() == {"checked": 1, "bad": []}
    assert at > 10
    assert store.collect() == {"removed_chunks": 0, "removed_bytes": 0}


def test_kill_at_any_call_of_making_a_store_leaves_one_that_opens(folder: Path) -> None:
    at = 0
    while True:
        at += 1
        root = folder / f"store-{at}"

        def killed(at: int = at, root: Path = root) -> None:
            with FaultyCalls(at, die):
                Store.open(root)

        status = in_child(killed)
        save(Store.open(root), {"a": b"x"}, folder / "in")
        assert list(root.glob(".*")) == [], "half a key is left"
        if status == 0:
            break
    assert at > 5


def test_writes_come_in_the_order_that_survives_a_crash(folder: Path) -> None:
    store = prepared(folder)
    with FaultyCalls(None, lambda: None) as calls:
        save_next(store, folder)
    names = [name for name, _ in calls.seen]
    syncs = [index for index, name in enumerate(names) if name == "syncfs"]
    assert len(syncs) == 2
    renames = [index for index, name in enumerate(names) if name == "rename"]
    chunk_renames, manifest_rename = renames[:-1], renames[-1]
    chunk_writes = [index for index, (name, target) in enumerate(calls.seen)
                    if name == "open" and len(target) == 64]
    assert chunk_writes
    assert max(chunk_writes) < syncs[0] < min(chunk_renames)
    assert max(chunk_renames) < syncs[1] < manifest_rename
    assert calls.seen[manifest_rename][1].endswith(f"{NEW_ID}.json")
    fsyncs = [index for index, name in enumerate(names) if name == "fsync"]
    assert [index < manifest_rename for index in fsyncs] == [True, False]  # file, then folder


def test_syncs_hear_of_every_write_that_failed_since_the_checkpoint_was_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(folder)
    outside = open_files()
    synced: list[int] = []
    monkeypatch.setattr(transaction, "sync_filesystem", synced.append)
    with store.transaction("a-request") as writer:
        begun = open_files()
        writer.add_bytes("a", noise(100_000))
        writer.commit(manifest())
    # The kernel tells it to descriptors that were open when the write failed.
    assert [begun.get(descriptor) for descriptor in synced] == [str(store.root / "chunks")] * 2
    assert open_files() == outside


def open_files() -> dict[int, str]:
    """Return what this process has open, by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def test_short_writes_are_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(folder / "store")
    real_writev, real_write, real_pwrite = os.writev, os.write, os.pwrite
    monkeypatch.setattr(os, "writev", lambda fd, parts: real_writev(
        fd, [b"".join(parts)[:1000]]))
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:1000]))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_pwrite(fd, bytes(data)[:999], at))
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", mixed())
        saved = transaction.commit(manifest())
    store.materialise(saved, folder / "out")
    assert (folder / "out/a").read_bytes() == mixed()


FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from store_kit import mixed, noise, save, manifest, chunk_files
from jupyter_ckpt.errors import OutOfSpace, RestoreFailed
from jupyter_ckpt.store import Store
disk, outside = Path({disk!r}), Path({outside!r})
store = Store.open(disk / "store")
small = save(store, {{"a": mixed()}}, outside)
try:
    save(store, {{"a": noise(20 << 20)}}, outside)
except OutOfSpace as error:
    assert error.hint
else:
    raise SystemExit("not full")
assert [one.id for one in store.manifests()] == [small.id]
assert list((store.root / "tmp").iterdir()) == []
save(store, {{"b": mixed(7)}}, outside)
assert store.verify() == {{"checked": 2, "bad": []}}
big = save(Store.open(outside / "store"), {{"a": noise(20 << 20)}}, outside)
try:
    Store.open(outside / "store").materialise(big, disk / "out")
except RestoreFailed:
    raise SystemExit(0)
raise SystemExit("not full")
"""


def test_full_disk_is_named_and_harms_nothing(folder: Path) -> None:
    disk, outside = folder / "disk", folder / "outside"
    disk.mkdir()
    outside.mkdir()
    program = FULL_DISK.format(tests=str(Path(__file__).parent), disk=str(disk),
                               outside=str(outside))
    script = f'mount -t tmpfs -o size=8m tmpfs "{disk}" || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script, sys.executable, program],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])})
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no private mounts here")
    assert done.returncode == 0, done.stderr


def test_dead_transaction_is_swept_by_the_next_one(folder: Path) -> None:
    store = prepared(folder)

    def killed() -> None:
        with store.transaction("a-request") as transaction:
            transaction.add_bytes("a", noise(500_000))
            die()

    assert in_child(killed) == -9
    assert len(os.listdir(store.root / "tmp")) == 1
    before = chunk_files(store)
    with store.transaction("b-request"):
        assert len(os.listdir(store.root / "tmp")) == 1
    assert os.listdir(store.root / "tmp") == []
    assert chunk_files(store) == before
