"""Names, ids, changes and signatures of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_kit import manifest, manifest_file, save

from jupyter_ckpt.errors import (
    AmbiguousId,
    CannotBeSaved,
    CheckpointNotFound,
    FormatTooNew,
    MalformedId,
    ManifestCorrupt,
    NameTaken,
    SignatureInvalid,
    UsageError,
)
from jupyter_ckpt.store import Store, manifests
from jupyter_ckpt.store.signing import canonical, sealed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_manifests_come_newest_first(store: Store, tmp_path: Path) -> None:
    times = ["2026-01-02T00:00:00.000Z", "2026-01-03T00:00:00.000Z", "2026-01-01T00:00:00.000Z"]
    for time in times:
        save(store, {"a": b"x"}, tmp_path / "in", created_at=time)
    assert [one.created_at for one in store.manifests()] == sorted(times, reverse=True)


def test_published_manifest_is_what_is_read(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", name=" näme ", note="n", pause_s=0.1,
                 host={"cores": [1, 2]}, files=[{"path": "/ü"}])
    assert saved.name == "näme"
    assert store.resolve(saved.id) == saved
    assert store.manifests() == [saved]


def test_checkpoint_is_found_by_id_prefix_and_name(store: Store, tmp_path: Path) -> None:
    first = save(store, {"a": b"x"}, tmp_path / "in", id="aaaa11112222", name="first one")
    save(store, {"a": b"x"}, tmp_path / "in", id="aaaa11113333")
    for reference in ("aaaa11112222", "aaaa11112", "first one"):
        assert store.resolve(reference) == first
        assert store.resolve_id(reference) == first.id
    with pytest.raises(AmbiguousId, match="aaaa11113333"):
        store.resolve("aaaa1111")
    for reference in ("bbbb", "no such name", "aaa"):
        with pytest.raises(CheckpointNotFound):
            store.resolve(reference)
    for reference in ("", "a/b", "../../etc/passwd", "x" * 200, "a\nb"):
        with pytest.raises(MalformedId):
            store.resolve(reference)


def test_id_that_begins_like_a_longer_one_is_found(store: Store, tmp_path: Path) -> None:
    save(store, {"a": b"x"}, tmp_path / "in", id="aaaa11112222")
    save(store, {"a": b"x"}, tmp_path / "in", id="aaaa1111222233")
    assert store.resolve("aaaa11112222").id == "aaaa11112222"


def test_taken_name_is_refused_and_the_commit_may_be_repeated(store: Store, tmp_path: Path) -> None:
    first = save(store, {"a": b"x"}, tmp_path / "in", name="best")
    with pytest.raises(NameTaken, match=first.id):
        store.check_name_free("best")
    with store.transaction("a-request") as transaction:
        transaction.add_bytes("a", b"y")
        with pytest.raises(NameTaken):
            transaction.commit(manifest(name="best"))
        assert store.manifests() == [first]
        second = transaction.commit(manifest(name="second best"))
    assert store.read_file(second, "a") == b"y"


def test_id_is_never_used_twice(store: Store, tmp_path: Path) -> None:
    first = save(store, {"a": b"x"}, tmp_path / "in", id="aaaa11112222")
    with pytest.raises(UsageError):
        save(store, {"a": b"y"}, tmp_path / "in", id="aaaa11112222")
    assert store.manifests() == [first]


def test_name_note_and_pin_are_changed(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", name="old")
    save(store, {"a": b"x"}, tmp_path / "in", name="taken")
    changed = store.update(saved.id, name="new", note="why", pinned=True)
    assert (changed.name, changed.note, changed.pinned) == ("new", "why", True)
    assert store.resolve("new") == changed
    assert store.update(saved.id, name="new") == changed
    assert store.update(saved.id, name=None).name is None
    for bad in ({"name": "taken"}, {"name": "abcdef"}, {"pinned": "yes"}, {"content": "0" * 64},
                {"note": 3}):
        before = store.resolve(saved.id)
        with pytest.raises(UsageError):
            store.update(saved.id, **bad)
        assert store.resolve(saved.id) == before
    with pytest.raises(CheckpointNotFound):
        store.update("aaaa11112222", name="x y")
    assert len(list((store.root / "manifests").iterdir())) == 2


def test_update_keeps_fields_it_does_not_know(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    path, key = manifest_file(store, saved), (store.root / "key").read_bytes()
    path.write_bytes(sealed({**saved.to_dict(), "later": [1]}, key))
    store.update(saved.id, note="n")
    assert json.loads(path.read_bytes())["manifest"]["later"] == [1]


def test_parked_changes_and_purpose_never_does(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", purpose="fork")
    assert (saved.parked, saved.purpose) == (False, "fork")
    assert store.update(saved.id, parked=True).parked
    assert store.resolve(saved.id).parked
    assert not store.update(saved.id, parked=False).parked
    for bad in ({"parked": "yes"}, {"purpose": None}):
        with pytest.raises(UsageError):
            store.update(saved.id, **bad)


def test_removed_checkpoint_is_gone(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    store.remove(saved.id)
    assert store.manifests() == []
    for unknown in (saved.id, "../key", "aaaa"):
        with pytest.raises(CheckpointNotFound):
            store.remove(unknown)
    assert (store.root / "key").exists()


def test_edited_manifest_is_refused(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", note="harmless")
    path = manifest_file(store, saved)
    path.write_bytes(path.read_bytes().replace(b"harmless", b"harmful!"))
    with pytest.raises(SignatureInvalid, match=saved.id):
        store.resolve(saved.id)
    assert store.manifests() == []
    (problem,) = store.problems()
    assert problem["id"] == saved.id
    assert store.verify()["bad"] == [problem]
    assert store.verify([saved.id[:6]])["bad"] == [problem]
    store.remove(saved.id)
    assert store.problems() == []


def test_pretty_printed_manifest_keeps_its_signature(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", note="ü")
    path = manifest_file(store, saved)
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=2, ensure_ascii=False))
    assert store.resolve(saved.id) == saved


def test_manifest_of_another_key_is_refused(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    manifest_file(store, saved).write_bytes(sealed(saved.to_dict(), b"k" * 32))
    with pytest.raises(SignatureInvalid):
        store.resolve(saved.id)


def test_manifest_under_another_id_is_refused(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    manifest_file(store, saved).rename(store.root / "manifests/bbbb11112222.json")
    with pytest.raises(ManifestCorrupt, match=saved.id):
        store.resolve("bbbb")


def test_newer_format_is_named_even_when_it_is_signed_otherwise(store: Store, tmp_path: Path
                                                                 ) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    newer = {"manifest": {"id": saved.id, "format": 99}, "signature": "ed25519:..."}
    manifest_file(store, saved).write_text(json.dumps(newer))
    with pytest.raises(FormatTooNew, match="format 99"):
        store.resolve(saved.id)
    with pytest.raises(FormatTooNew):
        store.collect()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff\xfe", b"[" * 100000,
                                     b'{"manifest": [], "signature": ""}',
                                     b'{"manifest": {}, "signature": 1}'])
def test_nonsense_is_no_manifest(store: Store, tmp_path: Path, content: bytes) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    manifest_file(store, saved).write_bytes(content)
    with pytest.raises(ManifestCorrupt):
        store.resolve(saved.id)
    assert store.manifests() == []
    assert len(store.problems()) == 1


def test_signed_manifest_with_a_wrong_field_is_corrupt(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    key = (store.root / "key").read_bytes()
    manifest_file(store, saved).write_bytes(sealed({**saved.to_dict(), "pinned": 3}, key))
    with pytest.raises(ManifestCorrupt, match="pinned"):
        store.resolve(saved.id)


def test_strange_files_among_the_manifests_are_ignored(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    for name in ("notes.txt", "ABCDEF123456.json", ".aaaa11112222-1234", "x.json"):
        (store.root / "manifests" / name).write_bytes(b"?")
    (store.root / "manifests/aaaa11112222.json").mkdir()
    (store.root / "manifests/bbbb11112222.json").symlink_to("/etc/passwd")
    assert store.manifests() == [saved]
    assert {one["id"] for one in store.problems()} == {"aaaa11112222", "bbbb11112222"}


def test_a_thousand_checkpoints_are_listed(store: Store) -> None:
    key = (store.root / "key").read_bytes()
    for number in range(1000):
        one = manifest(id=f"{number:012x}", files=[{"path": f"/lib/{n}.so", "size_bytes": n}
                                                   for n in range(50)])
        manifest_file(store, one).write_bytes(sealed(one.to_dict(), key))
    assert len(store.manifests()) == 1000
    assert store.resolve(f"{77:012x}").id == f"{77:012x}"


def test_canonical_form_does_not_depend_on_order() -> None:
    expected = b'{"a":"\\u00fc","b":1}'
    assert canonical({"b": 1, "a": "ü"}) == canonical({"a": "ü", "b": 1}) == expected


def test_note_has_a_limit(store: Store, tmp_path: Path) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in", note="n" * 10_000)
    with pytest.raises(UsageError, match="10001"):
        store.update(saved.id, note="n" * 10_001)
    with pytest.raises(UsageError, match="10001"):
        save(store, {"a": b"x"}, tmp_path / "in", note="n" * 10_001)
    assert store.manifests() == [saved]


def test_manifest_that_could_not_be_read_back_is_not_published(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(store, {"a": b"x"}, tmp_path / "in")
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", manifest_file(store, saved).stat().st_size)
    assert store.resolve(saved.id) == saved
    with pytest.raises(CannotBeSaved):
        save(store, {"a": b"x"}, tmp_path / "in", files=[{"path": "/a"}] * 100)
    with pytest.raises(CannotBeSaved):
        store.update(saved.id, note="n" * 1000)
    assert store.manifests() == [saved]
