"""A store is private, or it is not used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from store_kit import in_child, save

from jupyter_ckpt.agent.tools import remove_abandoned
from jupyter_ckpt.errors import StoreUnusable
from jupyter_ckpt.store import Store

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")


def test_everything_made_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store.open(tmp_path / "deep/er/store")
        save(store, {"a": b"x" * 100_000}, tmp_path / "in")
        store.collect()
    finally:
        os.umask(old)
    for path in (store.root, *store.root.rglob("*")):
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == allowed, path
    assert len((store.root / "key").read_bytes()) == 32


def test_opening_again_keeps_key_and_checkpoints(tmp_path: Path) -> None:
    saved = save(Store.open(tmp_path / "store"), {"a": b"x"}, tmp_path / "in")
    assert Store.open(tmp_path / "store").manifests() == [saved]
    assert Store(tmp_path / "store").manifests() == [saved]


def test_absent_store_is_not_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="does not exist"):
        Store.open(tmp_path / "store", create=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("theirs", ["tmp/run1/out.csv", "chunks/a", "notes.txt", "lock/a"])
def test_folder_of_other_things_is_not_made_a_store(tmp_path: Path, theirs: str) -> None:
    """Or what lies in its ``tmp`` would go as the leftovers of dead writers."""
    folder = tmp_path / "project"
    (folder / theirs).parent.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / theirs).write_text("data")
    with pytest.raises(StoreUnusable, match="holds other things"):
        Store.open(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / theirs]
    assert (folder / theirs).read_text() == "data"


def test_empty_folder_and_one_whose_making_was_cut_short_become_a_store(tmp_path: Path) -> None:
    (tmp_path / "store/tmp").mkdir(parents=True, mode=0o700)
    (tmp_path / "store").chmod(0o700)
    for name in ("names.lock", ".key-0123abcd"):
        (tmp_path / "store" / name).touch(mode=0o600)
    save(Store.open(tmp_path / "store"), {"a": b"x"}, tmp_path / "in")


def test_what_a_user_put_into_a_store_stays(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for name in ("tmp/run1/out.csv", "tmp/a-note", "work/mine/b"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (store.root / name).write_text("data")
    (store.root / "work").chmod(0o700)
    store.collect()
    save(store, {"a": b"x"}, tmp_path / "in")
    remove_abandoned(store.root / "work")
    assert (store.root / "tmp/run1/out.csv").exists()
    assert (store.root / "work/mine/b").exists()


def test_missing_folders_are_made_again(tmp_path: Path) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store/tmp").rmdir()
    with pytest.raises(StoreUnusable):
        Store(tmp_path / "store")
    save(Store.open(tmp_path / "store"), {"a": b"x"}, tmp_path / "in")


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o777, 0o710])
def test_open_permissions_are_refused(tmp_path: Path, mode: int) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store").chmod(mode)
    with pytest.raises(StoreUnusable) as caught:
        Store.open(tmp_path / "store")
    assert "chmod 700" in caught.value.hint
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == mode


def test_folder_of_everybody_is_not_to_be_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(StoreUnusable) as caught:
        Store.open(tmp_path)
    assert "--store" in caught.value.hint
    assert "chmod" not in caught.value.hint


def test_readable_key_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store/key").chmod(0o640)
    with pytest.raises(StoreUnusable) as caught:
        Store.open(tmp_path / "store")
    assert "chmod 600" in caught.value.hint


def test_short_key_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store/key").write_bytes(b"short")
    with pytest.raises(StoreUnusable, match="5 bytes"):
        Store.open(tmp_path / "store")


def test_lost_key_is_not_replaced_while_there_are_checkpoints(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    key = (store.root / "key").read_bytes()
    (store.root / "key").unlink()
    with pytest.raises(StoreUnusable, match="key"):
        Store.open(tmp_path / "store")
    (store.root / "key").write_bytes(key)
    (store.root / "key").chmod(0o600)
    assert Store.open(tmp_path / "store").manifests() == [saved]


def test_file_in_the_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(StoreUnusable, match="not a folder"):
        Store.open(tmp_path / "store")
    with pytest.raises(StoreUnusable):
        Store.open(tmp_path / "store/below")


@pytest.mark.parametrize("name", ["chunks", "manifests", "tmp", "key"])
def test_link_inside_the_store_is_refused(tmp_path: Path, name: str) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store" / name).rename(tmp_path / name)
    (tmp_path / "store" / name).symlink_to(tmp_path / name)
    with pytest.raises(StoreUnusable):
        Store.open(tmp_path / "store")


def test_own_link_to_the_store_is_followed(tmp_path: Path) -> None:
    Store.open(tmp_path / "real")
    (tmp_path / "store").symlink_to(tmp_path / "real")
    save(Store.open(tmp_path / "store"), {"a": b"x"}, tmp_path / "in")
    assert len(Store.open(tmp_path / "real").manifests()) == 1


def test_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreUnusable):
        Store.open(tmp_path / "store")


@root_only
def test_link_of_another_user_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "real")
    (tmp_path / "store").symlink_to(tmp_path / "real")
    os.lchown(tmp_path / "store", 12345, 12345)
    with pytest.raises(StoreUnusable, match="another user"):
        Store.open(tmp_path / "store")


@root_only
@pytest.mark.parametrize("name", [".", "chunks", "manifests", "tmp", "key"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, name: str) -> None:
    Store.open(tmp_path / "store")
    os.chown(tmp_path / "store" / name, 12345, 12345)
    with pytest.raises(StoreUnusable, match="another user"):
        Store.open(tmp_path / "store")


@root_only
def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    (tmp_path / "store").mkdir(mode=0o500)
    os.chown(tmp_path / "store", 12345, 12345)

    def as_another() -> None:
        os.setgid(12345)
        os.setuid(12345)
        for place in (tmp_path / "store", tmp_path / "elsewhere"):
            with pytest.raises(StoreUnusable):
                Store.open(place)

    assert in_child(as_another) == 0


def test_store_made_by_several_at_once_has_one_key(tmp_path: Path) -> None:
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                Store.open(tmp_path / "store")
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    assert sorted(os.listdir(tmp_path / "store")) == ["chunks", "key", "manifests", "names.lock",
                                                      "tmp"]
