"""Files at a restore: put back with a backup, kept, or a reason to refuse."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_ckpt.agent import frozen, savedfiles
from jupyter_ckpt.agent.copying import copy_sparse
from jupyter_ckpt.agent.exchange import JOURNAL, forget, put_back, settle, undo
from jupyter_ckpt.agent.frozen import copy_open_files, copy_shared_memory, refill_shared_memory
from jupyter_ckpt.agent.savedfiles import plan_files, present_states
from jupyter_ckpt.engine.openfiles import OpenFile
from jupyter_ckpt.errors import RestoreRefused, UsageError
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of saved contents, with one file's content in it."""
    folder = tmp_path / "saved"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "0").write_text("as saved")
    return folder


def entry(path: Path, role: str = "write", size: int = 8, kept: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = {"path": str(path), "role": role, "size_bytes": size, "saved": kept,
                             "mode": 0o640, "mtime_ns": 1}
    return found | ({"content": "files/0"} if kept else {})


def test_unchanged_file_is_left_alone(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "a").write_text("as saved")
    plan = plan_files([entry(tmp_path / "a")], "put-back", saved, shared=False)
    assert (plan.put_back, plan.sizes, plan.warnings) == ([], {}, [])


def test_changed_file_is_put_back_beside_its_backup_and_undone(
    tmp_path: Path, saved: Path
) -> None:
    path = tmp_path / "a"
    path.write_text("written since, and longer")
    plan = plan_files([entry(path)], "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert path.read_text() == "as saved"
    assert path.stat().st_mode & 0o777 == 0o640
    (backup,) = tmp_path.glob("a.before-restore-*")
    assert backup.read_text() == "written since, and longer"
    assert str(backup) in plan.warnings[0]
    assert undo(saved.parent) == []
    assert path.read_text() == "written since, and longer"
    assert not backup.exists()


def test_same_size_other_content_counts_as_changed(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "a").write_text("AS SAVED")
    assert plan_files([entry(tmp_path / "a")], "put-back", saved, shared=False).put_back


def test_missing_written_file_is_made_again(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "gone" / "a"
    plan = plan_files([entry(path)], "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert path.read_text() == "as saved"
    assert undo(saved.parent) == []
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_of_the_store_is_not_blamed_on_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "a").write_text("written")

    def full(source: str, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(frozen, "copy_sparse", full)
    with pytest.raises(OSError, match=os.strerror(number)):
        copy_open_files([OpenFile(str(tmp_path / "a"), "write", 7)], tmp_path, (), 1 << 20)


def test_files_of_the_system_are_left_out_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "copies").mkdir()
    found = [OpenFile(path, role, 0) for path, role in [
        (f"/proc/{os.getpid()}/status", "read"), ("/proc/999999999/status", "read"),
        (f"/proc/{os.getpid()}/oom_score_adj", "write"), ("/sys/kernel/mm", "read"),
        ("/sys/gone", "read"), ("/dev/null", "write"), (str(tmp_path / "a"), "read")]]
    frozen = copy_open_files(found, tmp_path / "copies", (), 1 << 20)
    assert frozen.warnings == []
    assert [entry["path"] for entry in frozen.files] == [str(tmp_path / "a")]
    assert frozen.copies == {}


def test_missing_read_file_refuses(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(RestoreRefused, match="is missing"):
        plan_files([entry(tmp_path / "a", "read", kept=False)], "put-back", saved, shared=False)


def test_abort_refuses_and_names_the_file(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "a").write_text("changed")
    with pytest.raises(RestoreRefused, match=str(tmp_path / "a")):
        plan_files([entry(tmp_path / "a")], "abort", saved, shared=False)


def test_keep_accepts_the_present_size_and_warns(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "a").write_text("changed")
    plan = plan_files([entry(tmp_path / "a")], "keep", saved, shared=False)
    assert plan.sizes == {str(tmp_path / "a"): 7}
    assert len(plan.warnings) == 1


@pytest.mark.parametrize("role", ["append", "history"])
def test_logs_and_history_are_kept_without_a_word(
    tmp_path: Path, saved: Path, role: str
) -> None:
    (tmp_path / "log").write_text("grown by others")
    plan = plan_files([entry(tmp_path / "log", role, kept=False)], "abort", saved, shared=False)
    assert plan.sizes == {str(tmp_path / "log"): 15}
    assert plan.warnings == []


def test_file_another_process_writes_is_left_to_it(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "a"
    with path.open("w") as writer:
        writer.write("the original goes on")
        writer.flush()
        plan = plan_files([entry(path)], "put-back", saved, shared=True)
    assert plan.put_back == []
    assert "in use by another process" in plan.warnings[0]


def test_unknown_policy_is_a_usage_error(saved: Path) -> None:
    with pytest.raises(UsageError):
        plan_files([], "maybe", saved, shared=False)


def test_sparse_copy_keeps_holes_and_length(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
        file.truncate(16 << 20)
    copy_sparse(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "copy").stat().st_blocks * 512 < 1 << 20


def test_shared_memory_comes_back_with_folders_links_and_modes(tmp_path: Path) -> None:
    shm, folder, again = tmp_path / "shm", tmp_path / "copies", tmp_path / "again"
    for each in (shm / ".box", folder, again):
        each.mkdir(parents=True)
    (shm / "sem.a").write_bytes(b"semaphore")
    (shm / ".box" / "hidden").write_bytes(b"deleted, still mapped")
    (shm / "link").symlink_to("sem.a")
    os.chmod(shm / "sem.a", 0o600)
    copies = copy_shared_memory(shm, folder)
    materialised = tmp_path / "content"
    for name, path in copies.items():
        (materialised / name).parent.mkdir(parents=True, exist_ok=True)
        (materialised / name).write_bytes(path.read_bytes())
    refill_shared_memory(again, materialised)
    assert (again / ".box" / "hidden").read_bytes() == b"deleted, still mapped"
    assert (again / "link").read_bytes() == b"semaphore"
    assert (again / "sem.a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("policy", ["put-back", "keep", "abort"])
def test_shared_memory_is_put_back_whatever_the_policy_for_files(
    saved: Path, policy: str
) -> None:
    gone = entry(Path("/dev/shm/.box-of-nobody/semaphore"))
    plan = plan_files([gone], policy, saved, shared=False)
    assert plan.put_back == [gone]
    assert plan.warnings == []


@pytest.mark.parametrize("now", ["folder", "fifo"])
@pytest.mark.parametrize("policy", ["put-back", "keep"])
def test_what_took_a_files_place_refuses(
    tmp_path: Path, saved: Path, now: str, policy: str
) -> None:
    path = tmp_path / "a"
    path.mkdir() if now == "folder" else os.mkfifo(path)
    with pytest.raises(RestoreRefused, match=f"{path} is a (folder|named pipe) now"):
        plan_files([entry(path)], policy, saved, shared=False)


def test_link_that_took_a_files_place_is_set_aside(tmp_path: Path, saved: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "other"
    other.write_text("as saved")
    path.symlink_to(other)
    plan = plan_files([entry(path)], "put-back", saved, shared=False)
    put_back(plan, saved, saved.parent, 1)
    assert not path.is_symlink()
    assert path.read_text() == "as saved"
    assert undo(saved.parent) == []
    assert path.readlink() == other


def test_renamed_file_is_made_again_under_its_name(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "a"
    path.write_text("as saved")
    path.rename(tmp_path / "elsewhere")
    put_back(plan_files([entry(path)], "put-back", saved, shared=False), saved,
             saved.parent, 1)
    assert path.read_text() == (tmp_path / "elsewhere").read_text() == "as saved"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(RestoreRefused) as caught:
        plan_files([entry(tmp_path / "folder"), entry(tmp_path / "gone", "read", kept=False)],
                   "put-back", saved, shared=False)
    assert "is a folder now" in caught.value.message
    assert f"{tmp_path / 'gone'}, which the session has open, is missing" in caught.value.message


def test_every_differing_file_is_listed_by_abort(tmp_path: Path, saved: Path) -> None:
    paths = [tmp_path / f"file-{number}" for number in range(8)]
    for path in paths:
        path.write_text("changed")
    with pytest.raises(RestoreRefused) as caught:
        plan_files([entry(path) for path in paths], "abort", saved, shared=False)
    assert all(str(path) in caught.value.message for path in paths)


def test_file_that_cannot_be_put_back_is_named_and_undone(tmp_path: Path, saved: Path) -> None:
    first, path = tmp_path / "first", tmp_path / "a"
    first.write_text("changed")
    path.write_text("changed too")
    lost = entry(path) | {"content": "files/9"}
    plan = plan_files([entry(first), lost | {"blake3": "0"}], "put-back", saved, shared=False)
    with pytest.raises(RestoreRefused, match=f"{path} cannot be put back"):
        put_back(plan, saved, saved.parent, 1)
    assert undo(saved.parent) == []
    assert (first.read_text(), path.read_text()) == ("changed", "changed too")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "first", "saved"]


@pytest.mark.parametrize("at", range(1, 8))
def test_whoever_comes_after_a_death_at_any_step_finds_the_files_as_they_were(
    tmp_path: Path, saved: Path, at: int
) -> None:
    changed, missing, extra = tmp_path / "changed", tmp_path / "missing", tmp_path / "extra"
    changed.write_text("by the user")
    extra.write_text("a journal")
    plan = plan_files([entry(changed), entry(missing)], "put-back", saved, shared=False)
    plan.move_away.append(str(extra))
    steps = 0

    def dying(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event == "os.rename":
            steps += 1
            if steps == at:
                os._exit(9)

    child = os.fork()
    if child == 0:
        sys.addaudithook(dying)
        put_back(plan, saved, saved.parent, 7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (9 if at < 7 else 0)
    settle(saved.parent, Record("k", epoch=7, recover="0" * 16))
    assert (changed.read_text(), extra.read_text()) == ("by the user", "a journal")
    assert not missing.exists()
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(f".{JOURNAL}")}
    assert left == {"changed", "extra", "saved"}


def test_restore_that_had_succeeded_is_not_undone(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "a").write_text("by the user")
    put_back(plan_files([entry(tmp_path / "a")], "put-back", saved, shared=False), saved,
             tmp_path, 7)
    settle(tmp_path, Record("k", epoch=7, kernel=ProcessId(1, 1)))
    assert (tmp_path / "a").read_text() == "as saved"
    assert undo(tmp_path) == []
    assert (tmp_path / "a").read_text() == "as saved"


def test_what_others_put_into_a_files_place_is_not_removed_by_an_undo(
    tmp_path: Path, saved: Path
) -> None:
    path = tmp_path / "a"
    put_back(plan_files([entry(path)], "put-back", saved, shared=False), saved, tmp_path, 1)
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "theirs").rename(path)
    assert undo(tmp_path) == []
    assert path.read_text() == "theirs"


def test_backup_name_that_others_took_belongs_to_them(tmp_path: Path, saved: Path) -> None:
    path, theirs = tmp_path / "a", tmp_path / "a.before-restore-x"
    path.write_text("by the user")
    theirs.write_text("theirs")
    (tmp_path / JOURNAL).write_text(json.dumps({"epoch": 1, "files": [{
        "path": str(path), "backup": str(theirs), "aside": path.stat().st_ino,
        "fresh": None, "made": None}]}))
    assert undo(tmp_path) == []
    assert (path.read_text(), theirs.read_text()) == ("by the user", "theirs")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"epoch": 1, "files": [{}]}', b"[" * 100_000])
def test_journal_that_is_none_is_left_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    assert undo(tmp_path) == []
    forget(tmp_path)


def test_file_that_cannot_be_brought_back_is_told_with_its_backup(
    tmp_path: Path, saved: Path
) -> None:
    path = tmp_path / "a"
    path.write_text("by the user")
    put_back(plan_files([entry(path)], "put-back", saved, shared=False), saved, tmp_path, 1)
    path.unlink()
    path.mkdir()
    (problem,) = undo(tmp_path)
    (backup,) = tmp_path.glob("a.before-restore-*")
    assert str(path) in problem and str(backup) in problem


def test_what_is_put_back_has_owner_and_attributes_of_what_was_there(
    tmp_path: Path, saved: Path
) -> None:
    path, gone = tmp_path / "a", tmp_path / "gone"
    path.write_text("changed")
    try:
        os.setxattr(path, "user.note", b"kept")
        os.chown(path, 12345, 23456)
    except OSError as error:
        pytest.skip(f"not here: {error}")
    files = [entry(path), entry(gone) | {"uid": 54321, "gid": 65432}]
    put_back(plan_files(files, "put-back", saved, shared=False), saved, tmp_path, 1)
    found = [(p.read_text(), p.stat().st_uid, p.stat().st_gid, p.stat().st_mode & 0o7777)
             for p in (path, gone)]
    assert found == [("as saved", 12345, 23456, 0o640), ("as saved", 54321, 65432, 0o640)]
    assert os.getxattr(path, "user.note") == b"kept"


def test_descriptor_that_closes_while_it_is_looked_at_hides_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.touch()
    writer = subprocess.Popen(
        [sys.executable, "-c", f"f = open({str(path)!r}, 'a'); print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        assert writer.stdout.readline() == b"\n"
        listed = os.listdir
        monkeypatch.setattr(savedfiles, "all_pids", lambda: [writer.pid])
        monkeypatch.setattr(os, "listdir", lambda folder: ["999", *listed(folder)])
        assert savedfiles._is_being_written(str(path))
    finally:
        writer.communicate()


def test_file_that_grew_after_the_plan_was_made_comes_back_as_it_is(
    tmp_path: Path, saved: Path
) -> None:
    path = tmp_path / "log"
    path.write_text("as saved")
    entries = [entry(path, "history", kept=False) | {"mtime_ns": path.stat().st_mtime_ns}]
    plan = plan_files(entries, "put-back", saved, shared=False)
    path.write_text("as saved, and more by another kernel")
    assert present_states(entries, plan)[str(path)][0] == path.stat().st_size
