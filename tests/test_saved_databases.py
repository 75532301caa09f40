"""SQLite databases at a checkpoint: all their files together, or none of them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_ckpt.agent.exchange import put_back, undo
from jupyter_ckpt.agent.frozen import FrozenFiles, copy_open_files, file_limit, parse_limit
from jupyter_ckpt.agent.savedfiles import plan_files
from jupyter_ckpt.engine.openfiles import OpenFile
from jupyter_ckpt.errors import RestoreRefused, UsageError
from jupyter_ckpt.sizes import parse_size

LIMIT = 1 << 30
WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(f"pragma journal_mode={sys.argv[2]}")
db.execute("create table t(x)"); db.execute("insert into t values (1)")
if sys.argv[3] == "open transaction":
    db.execute("pragma cache_size=1"); db.execute("begin")
    db.executemany("insert into t values (?)", [("y" * 1000,)] * 2000)
os._exit(0)
"""


def written(path: Path, journal: str, state: str = "committed") -> Path:
    """Make a database by a process that dies without closing it."""
    subprocess.run([sys.executable, "-c", WRITER, str(path), journal, state], check=True)
    return path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return written(tmp_path / "data.db", "wal")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    (folder / "files").mkdir(parents=True)
    return folder


def freeze(saved: Path, *paths: Path, limit: int = LIMIT) -> FrozenFiles:
    found = [OpenFile(str(path), "write", path.stat().st_size) for path in paths]
    return copy_open_files(found, saved / "files", (), limit)


def values(database: Path) -> list[Any]:
    db = sqlite3.connect(database)
    try:
        return [row[0] for row in db.execute("select x from t")]
    finally:
        db.close()


def add(database: Path, value: int) -> None:
    db = sqlite3.connect(database)
    with db:
        db.execute("insert into t values (?)", (value,))
    db.close()  # checkpoints and removes the -wal and the -shm


def by_name(frozen: FrozenFiles) -> dict[str, dict[str, Any]]:
    return {Path(entry["path"]).name: entry for entry in frozen.files}


def test_files_nobody_has_open_are_saved_with_their_database(
    database: Path, saved: Path
) -> None:
    found = by_name(freeze(saved, database))
    assert set(found) == {"data.db", "data.db-wal", "data.db-shm"}
    assert all(entry["saved"] for entry in found.values())
    assert found["data.db"]["absent"] == [f"{database}-journal"]


def test_journal_of_an_open_transaction_is_saved_and_rolls_back(
    tmp_path: Path, saved: Path
) -> None:
    database = written(tmp_path / "data.db", "delete", "open transaction")
    frozen = freeze(saved, database)
    assert "data.db-journal" in by_name(frozen)
    add(database, 2)
    plan = plan_files(frozen.files, "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert values(database) == [1], "as at the checkpoint: the transaction was not committed"


def test_whole_group_is_put_back_and_backed_up(database: Path, saved: Path) -> None:
    frozen = freeze(saved, database)
    add(database, 2)
    assert not Path(f"{database}-wal").exists()
    plan = plan_files(frozen.files, "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert values(database) == [1]
    (backup,) = database.parent.glob("data.db.before-restore-*")
    assert values(backup) == [1, 2]
    assert any(str(backup) in warning for warning in plan.warnings)


def test_undo_brings_the_whole_group_back(database: Path, saved: Path) -> None:
    frozen = freeze(saved, database)
    add(database, 2)
    plan = plan_files(frozen.files, "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert undo(saved.parent) == []
    assert values(database) == [1, 2]
    assert sorted(p.name for p in database.parent.iterdir()) == ["data.db", "saved"]


def test_journal_of_a_later_moment_is_set_aside(tmp_path: Path, saved: Path) -> None:
    """Left beside the older database it would be rolled back into it."""
    database = written(tmp_path / "data.db", "delete")
    frozen = freeze(saved, database)
    later = written(tmp_path / "later.db", "delete", "open transaction")
    for side in ("", "-journal"):
        Path(f"{later}{side}").rename(f"{database}{side}")
    plan = plan_files(frozen.files, "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert not Path(f"{database}-journal").exists()
    assert values(database) == [1]
    assert any("was not there at the checkpoint" in warning for warning in plan.warnings)
    assert undo(saved.parent) == []
    assert Path(f"{database}-journal").exists()


def test_keep_leaves_the_whole_group(database: Path, saved: Path) -> None:
    frozen = freeze(saved, database)
    add(database, 2)
    plan = plan_files(frozen.files, "keep", saved, shared=False)
    assert (plan.put_back, plan.move_away) == ([], [])
    assert plan.sizes[str(database)] == database.stat().st_size
    assert len(plan.warnings) >= 1


def test_abort_names_the_files_of_the_group(database: Path, saved: Path) -> None:
    frozen = freeze(saved, database)
    add(database, 2)
    with pytest.raises(RestoreRefused, match=f"{database}, {database}-wal"):
        plan_files(frozen.files, "abort", saved, shared=False)


def test_changed_index_alone_is_no_difference(database: Path, saved: Path) -> None:
    frozen = freeze(saved, database)
    with open(f"{database}-shm", "r+b") as index:
        index.seek(100)
        index.write(b"read marks")
    plan_files(frozen.files, "abort", saved, shared=False)
    plan = plan_files(frozen.files, "put-back", saved, shared=False)
    assert [entry["path"] for entry in plan.put_back] == [f"{database}-shm"]


def test_group_with_a_file_over_the_limit_is_not_saved_at_all(
    database: Path, saved: Path
) -> None:
    frozen = freeze(saved, database, limit=Path(f"{database}-wal").stat().st_size - 1)
    assert not any(entry["saved"] for entry in frozen.files)
    assert frozen.copies == {}
    assert list((saved / "files").iterdir()) == []
    text = " ".join(frozen.warnings)
    assert f"{database}-wal is open for writing" in text
    assert "JUPYTER_CKPT_FILE_LIMIT" in text
    assert f"{database} belongs to {database}-wal and is not saved without it" in text


def test_large_file_gets_a_warning_with_size_and_setting(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(2000))
    (warning,) = freeze(saved, path, limit=1999).warnings
    assert warning.startswith(f"{path} is open for writing and 2000 bytes large")
    assert "1999 that JUPYTER_CKPT_FILE_LIMIT allows" in warning


@pytest.mark.parametrize(("text", "expected"), [
    ("0", 0), ("12345", 12345), ("500M", 500_000_000), ("4G", 4_000_000_000),
    ("1.5 GiB", 3 << 29), ("2kB", 2000)])
def test_limit_is_a_size_as_that_of_the_quota(text: str, expected: int) -> None:
    assert parse_limit(text) == expected
    assert text == "0" or parse_size(text) == expected


@pytest.mark.parametrize("text", ["much", "-1", "4X", "G"])
def test_limit_that_is_no_size_gives_a_warning_and_the_usual_one(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="is not an amount of bytes"):
        parse_limit(text)
    monkeypatch.setenv("JUPYTER_CKPT_FILE_LIMIT", text)
    limit, (warning,) = file_limit()
    assert limit == 4_000_000_000
    assert warning.startswith(f"JUPYTER_CKPT_FILE_LIMIT: '{text}' is not an amount of bytes.")


def test_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_FILE_LIMIT", "7M")
    assert file_limit() == (7_000_000, [])
    monkeypatch.delenv("JUPYTER_CKPT_FILE_LIMIT")
    assert file_limit() == (4_000_000_000, [])
