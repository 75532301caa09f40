"""What this user's key did not sign is refused, and the words that override it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from fake_kernels import Shell, a_manifest, stored
from store_kit import rot

from jupyter_ckpt.errors import ChunkCorrupt, FormatTooNew, ManifestCorrupt, SignatureInvalid
from jupyter_ckpt.handlers import ROUTES
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.store import Store


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    return Shell(capsys, tmp_path)


@pytest.fixture
def foreign(shell: Shell, tmp_path: Path) -> Manifest:
    """A checkpoint that somebody else saved, copied into this user's store."""
    theirs = Store.open(tmp_path / "theirs")
    manifest = stored(theirs, a_manifest(), os.urandom(100_000))
    assert shell.store.manifests() == []  # makes it
    for name in ("chunks", "manifests"):
        shutil.copytree(theirs.root / name, shell.locations.store_dir / name, dirs_exist_ok=True)
    return manifest


def test_foreign_checkpoint_is_refused_with_the_words_to_say(
    shell: Shell, foreign: Manifest
) -> None:
    error = shell.run("restore", foreign.id, "--json").error
    assert (error["code"], error["id"]) == (7, "signature-invalid")
    assert "--trust-foreign-signature" in error["hint"]
    assert shell.kernels.calls == []


def test_foreign_checkpoint_is_restored_when_told_so_and_says_what_that_means(
    shell: Shell, foreign: Manifest
) -> None:
    ran = shell.run("restore", foreign.id, "--trust-foreign-signature", "--no-server", "--new")
    assert ran.code == 0
    assert "has all your rights" in ran.err
    assert [name for name, _ in shell.kernels.calls] == ["restore"]
    assert shell.store.resolve(foreign.id).to_dict() == foreign.to_dict()


def test_own_checkpoint_needs_no_override_and_is_not_written_anew(shell: Shell) -> None:
    own = stored(shell.store, a_manifest())
    path = shell.locations.store_dir / "manifests" / f"{own.id}.json"
    before = path.stat().st_mtime_ns
    ran = shell.run("restore", own.id, "--trust-foreign-signature", "--no-server", "--new")
    assert "rights" not in ran.err
    assert path.stat().st_mtime_ns == before


def test_override_believes_no_damaged_byte(shell: Shell, foreign: Manifest) -> None:
    chunks = [p for p in (shell.locations.store_dir / "chunks").rglob("*") if p.is_file()]
    largest = max(chunks, key=lambda path: path.stat().st_size)
    rot(largest)
    error = shell.run("restore", foreign.id, "--trust-foreign-signature", "--json").error
    assert error["id"] == ChunkCorrupt.message_id
    with pytest.raises(SignatureInvalid):
        shell.store.resolve(foreign.id)
    assert shell.kernels.calls == []


@pytest.mark.parametrize(("change", "kind"), [
    ({"format": 99}, FormatTooNew), ({"files": "x"}, ManifestCorrupt),
    ({"id": "abcdef012345"}, ManifestCorrupt)])
def test_override_believes_no_odd_manifest(
    shell: Shell, foreign: Manifest, change: dict[str, object], kind: type[Exception]
) -> None:
    path = shell.locations.store_dir / "manifests" / f"{foreign.id}.json"
    data = json.loads(path.read_bytes())
    path.write_text(json.dumps({**data, "manifest": {**data["manifest"], **change}}))
    with pytest.raises(kind):
        shell.store.adopt(foreign.id)
    assert shell.run("restore", foreign.id, "--trust-foreign-signature", "--json").code == 7


def test_no_route_and_no_agent_request_can_override() -> None:
    root = Path(__file__).parent.parent / "jupyter_ckpt"
    speakers = {path.name for path in root.rglob("*.py") if ".adopt(" in path.read_text()
                and "store" in path.read_text()}
    assert speakers & {"handlers.py", "restore_service.py", "backend.py", "core.py", "saving.py",
                       "replacing.py", "requests.py", "questions.py"} == set()
    assert {"restore.py"} <= speakers
    assert not any("trust" in pattern for pattern, _ in ROUTES)


def test_copied_store_with_its_key_needs_no_override(shell: Shell, tmp_path: Path) -> None:
    own = stored(shell.store, a_manifest(), b"x" * 1000)
    shutil.copytree(shell.locations.store_dir, tmp_path / "copy")
    assert shell.run("verify", "--store", str(tmp_path / "copy"), "--json").document == {
        "checked": 1, "bad": []}
    assert shell.run("show", own.id, "--store", str(tmp_path / "copy")).code == 0


def test_encrypt_makes_a_key_once_and_says_where(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    found = shell.run("encrypt", "--json").document
    key = Path(found["key_file"])
    assert key.parent == tmp_path / "config"
    assert key.stat().st_mode & 0o777 == 0o600
    stored(shell.store, a_manifest(), b"hunter2" * 1000)
    again = shell.run("encrypt", "--json").error
    assert (again["code"], again["id"]) == (2, "usage")
    assert shell.run("verify", "--json").document["bad"] == []
    key.rename(tmp_path / "away")
    assert shell.run("verify", "--json").error["id"] == "encryption-key"
    assert shell.run("list", "--json").error["code"] == 4


def test_encrypt_of_a_store_with_checkpoints_leaves_no_key_behind(
    shell: Shell, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography")
    stored(shell.store, a_manifest())
    key = tmp_path / "new.key"
    assert shell.run("encrypt", "--key-file", str(key), "--json").error["code"] == 2
    assert not key.exists()
