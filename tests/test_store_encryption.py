"""An encrypted store: nothing of what is saved can be read or guessed without the key."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path

import pytest
from store_kit import chunk_files, manifest_file, mixed, save, text

from jupyter_ckpt.errors import (
    ChunkCorrupt,
    EncryptionKeyMissing,
    IntegrityError,
    StoreUnusable,
    UsageError,
)
from jupyter_ckpt.manifest import ENCRYPTED_FORMAT, PLAIN_FORMAT
from jupyter_ckpt.store import Store, cipher
from jupyter_ckpt.store.chunks import digest_of
from jupyter_ckpt.store.layout import Layout

pytest.importorskip("cryptography")
SECRET = b"the password is hunter2 and so on "


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "the.key"
    path.write_bytes(random.Random(1).randbytes(32))
    path.chmod(0o600)
    return path


@pytest.fixture
def store(tmp_path: Path, key_file: Path) -> Store:
    store = Store.open(tmp_path / "store")
    store.encrypt(key_file)
    return store


def test_what_was_saved_comes_back(store: Store, tmp_path: Path) -> None:
    contents = {"a": mixed(), "b": text(1000), "c": b"", "d": bytes(500_000)}
    saved = save(store, contents, tmp_path / "in")
    again = Store.open(store.root)
    assert again.encrypted
    assert again.verify() == {"checked": 1, "bad": []}
    again.materialise(again.resolve(saved.id), tmp_path / "out")
    for name, data in contents.items():
        assert (tmp_path / "out" / name).read_bytes() == data
        assert again.read_file(saved, name) == data


def test_nothing_in_the_store_shows_the_contents(store: Store, tmp_path: Path) -> None:
    data = SECRET * 4000
    save(store, {"restore.json": data, "small": SECRET}, tmp_path / "in")
    for path in store.root.rglob("*"):
        if path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
    for path in chunk_files(store):
        assert path.read_bytes().startswith(b"JCE1")
        assert path.name != digest_of(SECRET).hex()


def test_names_differ_between_stores_and_are_shared_within_one(
    store: Store, tmp_path: Path, key_file: Path
) -> None:
    data = mixed()
    first = save(store, {"a": data}, tmp_path / "in")
    second = save(store, {"a": data, "b": data}, tmp_path / "in")
    assert first.stored_bytes > 200_000
    assert second.stored_bytes < 5_000
    other = Store.open(tmp_path / "other")
    other.encrypt(key_file)
    save(other, {"a": data}, tmp_path / "in")
    assert not {p.name for p in chunk_files(other)} & {p.name for p in chunk_files(store)}


def test_every_flipped_byte_is_noticed(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": text(70_000)}, tmp_path / "in")
    for path in chunk_files(store):
        whole = path.read_bytes()
        for position in {0, 5, 13, 20, 27, 28, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[position] ^= 1
            path.write_bytes(damaged)
            with pytest.raises(ChunkCorrupt):
                store.check(saved)
        path.write_bytes(whole)
    store.check(saved)


def test_swapped_and_plain_chunks_are_refused(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "in")
    first, second = chunk_files(store)[:2]
    kept = first.read_bytes()
    for put in (second.read_bytes(), SECRET):
        first.write_bytes(put)
        with pytest.raises(ChunkCorrupt):
            store.check(saved)
    first.write_bytes(kept)


def test_torn_chunk_is_written_anew(store: Store, tmp_path: Path) -> None:
    save(store, {"a": mixed()}, tmp_path / "in")
    largest = max(chunk_files(store), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)
    again = save(store, {"a": mixed()}, tmp_path / "in")
    store.check(again)


def test_collection_and_changes_work_as_in_a_plain_store(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": mixed()}, tmp_path / "in")
    kept = save(store, {"b": text(300_000, seed=5)}, tmp_path / "in")
    store.update(saved.id, name="a name", pinned=True)
    store.remove(saved.id)
    assert store.collect()["removed_chunks"] > 0
    store.check(store.resolve(kept.id))


def test_wrong_key_is_named_and_changes_nothing(
    store: Store, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, {"a": b"x"}, tmp_path / "in")
    other = tmp_path / "other.key"
    other.write_bytes(b"z" * 32)
    other.chmod(0o600)
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    monkeypatch.setenv("JUPYTER_CKPT_KEY_FILE", str(other))
    with pytest.raises(EncryptionKeyMissing, match="does not open") as caught:
        Store.open(store.root)
    assert caught.value.exit_code == 4
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before


def test_key_file_may_move(
    store: Store, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    key_file.rename(tmp_path / "moved")
    with pytest.raises(EncryptionKeyMissing, match="cannot be opened"):
        Store.open(store.root)
    monkeypatch.setenv("JUPYTER_CKPT_KEY_FILE", str(tmp_path / "moved"))
    assert Store.open(store.root).read_file(saved, "a") == b"x"


@pytest.mark.parametrize(("mode", "content", "sentence"), [
    (0o644, b"k" * 32, "Other users may read"), (0o600, b"short", "too short")])
def test_key_file_that_is_none_is_refused(
    tmp_path: Path, mode: int, content: bytes, sentence: str
) -> None:
    store = Store.open(tmp_path / "store")
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(EncryptionKeyMissing, match=sentence):
        store.encrypt(path)
    with pytest.raises(EncryptionKeyMissing):
        store.encrypt(tmp_path)
    assert not Store.open(tmp_path / "store").encrypted


def test_passphrase_of_a_file_opens_the_store_with_or_without_newline(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery staple\n")
    path.chmod(0o600)
    store = Store.open(tmp_path / "store")
    store.encrypt(path, "passphrase")
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    path.write_text("correct horse battery staple")
    assert Store.open(store.root).read_file(saved, "a") == b"x"
    path.write_text("wrong horse battery staple")
    with pytest.raises(EncryptionKeyMissing):
        Store.open(store.root)


def test_store_with_checkpoints_is_not_half_encrypted(tmp_path: Path, key_file: Path) -> None:
    store = Store.open(tmp_path / "store")
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    with pytest.raises(UsageError, match="not encrypted"):
        store.encrypt(key_file)
    assert Store.open(store.root).read_file(saved, "a") == b"x"


def test_store_is_encrypted_once(store: Store, key_file: Path) -> None:
    with pytest.raises(UsageError, match="already"):
        store.encrypt(key_file)
    assert Store.open(store.root).encrypted


def test_plain_is_the_default_and_marked_so(tmp_path: Path, store: Store) -> None:
    plain = save(Store.open(tmp_path / "plain"), {"a": b"x"}, tmp_path / "in")
    hidden = save(store, {"a": b"x"}, tmp_path / "in")
    assert (plain.format, hidden.format) == (PLAIN_FORMAT, ENCRYPTED_FORMAT)


def test_lost_description_is_named(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    described = store.root / cipher.FILE_NAME
    kept = described.read_bytes()
    described.unlink()
    with pytest.raises(EncryptionKeyMissing, match="is gone"):
        Store.open(store.root).check(saved)
    for opened in (store, Store.open(store.root)):
        with pytest.raises(EncryptionKeyMissing, match="nothing is saved here in clear"):
            save(opened, {"a": SECRET}, tmp_path / "in")
        with pytest.raises(EncryptionKeyMissing):
            opened.check_writing()
    assert list((store.root / "tmp").iterdir()) == []
    for broken in (b"{", b"{}", b"[]", kept.replace(b"key-file", b"key-fool")):
        described.write_bytes(broken)
        with pytest.raises(IntegrityError):
            Store.open(store.root)


def test_copied_store_with_its_keys_works_elsewhere(
    store: Store, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(store, {"a": SECRET}, tmp_path / "in")
    shutil.copytree(store.root, tmp_path / "copy")
    assert manifest_file(Store.open(tmp_path / "copy"), saved).exists()
    assert Store.open(tmp_path / "copy").read_file(saved, "a") == SECRET


def test_lost_description_of_an_empty_store_is_no_way_back_to_a_plain_one(
    store: Store, tmp_path: Path, key_file: Path
) -> None:
    (store.root / cipher.FILE_NAME).unlink()
    with pytest.raises(EncryptionKeyMissing, match="nothing is saved here in clear"):
        save(Store.open(store.root), {"a": SECRET}, tmp_path / "in")
    Store.open(store.root).encrypt(key_file)
    saved = save(Store.open(store.root), {"a": SECRET}, tmp_path / "in")
    assert saved.format == ENCRYPTED_FORMAT


def test_lost_mark_and_description_are_known_by_any_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    save(store, {"a": b"x"}, tmp_path / "in")
    os.truncate(store.root / "key", 32)
    (store.root / cipher.FILE_NAME).unlink()
    with pytest.raises(EncryptionKeyMissing, match="nothing is saved here in clear"):
        save(Store.open(store.root), {"a": SECRET}, tmp_path / "in")


def test_lost_key_of_an_empty_encrypted_store_is_made_anew_with_its_mark(store: Store) -> None:
    (store.root / "key").unlink()
    assert Store.open(store.root).encrypted
    (store.root / cipher.FILE_NAME).unlink()
    with pytest.raises(EncryptionKeyMissing):
        Store.open(store.root).check_writing()


def test_save_that_began_before_the_store_was_encrypted_is_encrypted(
    tmp_path: Path, key_file: Path
) -> None:
    early = Store.open(tmp_path / "store")
    Store.open(tmp_path / "store").encrypt(key_file)
    saved = save(early, {"a": SECRET * 100}, tmp_path / "in")
    assert saved.format == ENCRYPTED_FORMAT
    assert all(path.read_bytes().startswith(b"JCE1") for path in chunk_files(early))
    assert Store.open(early.root).verify() == {"checked": 1, "bad": []}
    early.collect()


def test_store_is_not_encrypted_while_a_save_is_at_work(tmp_path: Path, key_file: Path) -> None:
    store = Store.open(tmp_path / "store")
    with store.transaction("at-work"), pytest.raises(UsageError, match="still holds data"):
        store.encrypt(key_file)
    store.encrypt(key_file)


def test_store_with_remains_in_clear_is_encrypted_after_a_collection(
    tmp_path: Path, key_file: Path
) -> None:
    store = Store.open(tmp_path / "store")
    saved = save(store, {"a": SECRET * 100}, tmp_path / "in")
    store.remove(saved.id)
    with pytest.raises(UsageError, match="still holds data") as caught:
        store.encrypt(key_file)
    assert "jupyter ckpt gc" in caught.value.hint
    store.collect()
    images = store.root / "work" / "1-1-save" / "images"
    (store.root / "work").mkdir(mode=0o700)
    images.mkdir(parents=True)
    with pytest.raises(UsageError, match="still holds data"):
        store.encrypt(key_file)
    assert not Store.open(store.root).encrypted
    shutil.rmtree(images.parent)
    store.encrypt(key_file)
    assert store.encrypted


def test_made_key_outlives_every_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, store = tmp_path / "keys" / "the.key", Store.open(tmp_path / "store")
    order: list[str] = []

    def failing(layout: Layout, name: str, data: bytes) -> None:
        assert key.read_bytes() != b""
        order.append(name)
        if name == cipher.FILE_NAME:
            write(layout, name, data)
            raise OSError(5, "Input/output error")
        write(layout, name, data)

    write = Layout._write
    monkeypatch.setattr(Layout, "_write", failing)
    with pytest.raises(StoreUnusable, match="begin its encryption"):
        store.encrypt(key, make_key=True)
    assert order == ["key", cipher.FILE_NAME]
    monkeypatch.undo()
    saved = save(Store.open(store.root), {"a": b"x"}, tmp_path / "in")
    made = key.read_bytes()
    with pytest.raises(UsageError, match="already"):
        store.encrypt(key, make_key=True)
    assert key.read_bytes() == made
    assert Store.open(store.root).read_file(saved, "a") == b"x"


def test_key_is_on_the_disk_before_the_store_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(cipher, "sync_folder", synced.append)
    store = Store.open(tmp_path / "store")
    store.encrypt(tmp_path / "keys" / "the.key", make_key=True)
    assert synced == [tmp_path / "keys"]
    with pytest.raises(UsageError, match="cannot be made"):
        Store.open(tmp_path / "other").encrypt(tmp_path / "keys" / "the.key" / "below",
                                               make_key=True)
    assert not Store.open(tmp_path / "other").encrypted


def test_hash_of_a_document_tells_nothing_to_others(
    store: Store, tmp_path: Path, key_file: Path
) -> None:
    plain, other = Store.open(tmp_path / "plain"), Store.open(tmp_path / "other")
    other.encrypt(key_file)
    found = []
    for one in (plain, store, other, store):
        with one.transaction("hash") as transaction:
            found.append(transaction.document_hash(SECRET))
    assert found[0] == hashlib.sha256(SECRET).hexdigest()
    assert len({*found}) == 3
    assert found[1] == found[3]
