"""Stores of every format there was stay readable."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from jupyter_ckpt.errors import EncryptionKeyMissing
from jupyter_ckpt.store import Store

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import make_store_v1  # noqa: E402


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A copy of the golden store with the permissions that version control does not keep."""
    root = tmp_path / "store"
    shutil.copytree(GOLDEN / "store-v1", root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return Store.open(root)


def test_golden_store_v1_stays_readable(store: Store, tmp_path: Path) -> None:
    saved = store.resolve("golden one")
    assert store.manifests() == [saved]
    assert store.verify() == {"checked": 1, "bad": []}
    assert saved.format == 1
    assert saved.id == "0123456789abcdef"
    assert saved.note == "Füße"
    assert saved.pinned
    assert (saved.parked, saved.purpose) == (False, None)
    assert saved.kernel["running"] == {"msg_id": "m", "cell_id": "c"}
    assert saved.files == [{"path": "/lib/x.so"}]
    store.materialise(saved, tmp_path / "out")
    assert (tmp_path / "out/images/pages-1.img").read_bytes() == make_store_v1.PAGES
    for name, data in make_store_v1.FILES.items():
        assert (tmp_path / "out" / name).read_bytes() == data


def test_golden_store_v1_is_found_again_by_what_is_saved_now(store: Store, tmp_path: Path) -> None:
    old = store.resolve("0123")
    make_store_v1.make(tmp_path / "now")
    new = Store.open(tmp_path / "now").resolve("0123")
    assert new.content == old.content


def test_golden_store_v2_is_read_with_its_key_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    import make_store_v2

    root, key = tmp_path / "store", tmp_path / "the.key"
    shutil.copytree(GOLDEN / "store-v2", root)
    shutil.copy(GOLDEN / "store-v2.key", key)
    for path in (root, *root.rglob("*"), key):
        path.chmod(0o700 if path.is_dir() else 0o600)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncryptionKeyMissing):
        Store.open(root)
    monkeypatch.setenv("JUPYTER_CKPT_KEY_FILE", str(key))
    store = Store.open(root)
    saved = store.resolve("golden two")
    assert (saved.format, store.verify()) == (2, {"checked": 1, "bad": []})
    for name, data in make_store_v2.FILES.items():
        assert store.read_file(saved, name) == data
