"""Every verb: what it prints for programs and for people."""

from __future__ import annotations

import os

import pytest
from fake_kernels import KERNEL_ID, OTHER_ID, Shell, a_manifest, stored
from store_kit import rot

from jupyter_ckpt.manifest import Manifest


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Shell(capsys, tmp_path / "work")


def test_save_with_json_prints_the_manifest(shell: Shell) -> None:
    shell.kernels.add()
    ran = shell.run("save", "--name", "before training", "--note", "epoch 3", "--pin", "--json")
    manifest = Manifest.from_dict(ran.document)
    assert (ran.code, manifest.name, manifest.note, manifest.pinned) == (
        0, "before training", "epoch 3", True)
    assert shell.store.resolve("before training").id == manifest.id
    assert ran.err == ""


def test_save_prints_only_the_id_on_standard_output(shell: Shell) -> None:
    shell.kernels.add()
    ran = shell.run("save", KERNEL_ID[:6])
    assert ran.out.strip() == shell.store.manifests()[0].id
    assert "paused 120 ms" in ran.err
    assert "jupyter ckpt restore" in ran.err


def test_list_shows_newest_first(shell: Shell) -> None:
    ids = [stored(shell.store, a_manifest(created_at=f"2026-01-0{day}T00:00:00.000Z")).id
           for day in (1, 2, 3)]
    ran = shell.run("list", "--json")
    assert [m["id"] for m in ran.document] == ids[::-1]
    table = shell.run("list").out
    assert table.index(ids[2][:8]) < table.index(ids[0][:8])


def test_list_of_an_empty_store_is_an_empty_list(shell: Shell) -> None:
    assert shell.run("list", "--json").document == []
    ran = shell.run("list")
    assert (ran.code, ran.out) == (0, "")
    assert "There are no checkpoints" in ran.err


@pytest.mark.parametrize("how", ["id", "prefix", "connection file", "notebook", "relative"])
def test_list_of_a_kernel_that_is_gone_finds_its_checkpoints(shell: Shell, how: str) -> None:
    notebook = str(shell.folder / "job.ipynb")
    wanted = stored(shell.store, a_manifest(notebook={"path": notebook, "sha256": ""}))
    stored(shell.store, a_manifest(OTHER_ID))
    text = {"id": KERNEL_ID, "prefix": KERNEL_ID[:8], "notebook": notebook,
            "relative": "job.ipynb", "connection file": f"/run/kernel-{KERNEL_ID}.json"}[how]
    assert [m["id"] for m in shell.run("list", text, "--json").document] == [wanted.id]


def test_list_of_a_living_kernel_without_checkpoints_is_empty(shell: Shell) -> None:
    shell.kernels.add()
    assert shell.run("list", KERNEL_ID, "--json").document == []


def test_list_of_a_notebook_with_two_kernels_shows_the_checkpoints_of_both(shell: Shell) -> None:
    notebook = str(shell.folder / "job.ipynb")
    wanted = []
    for kernel_id in (KERNEL_ID, OTHER_ID):
        shell.kernels.add(kernel_id, notebook=notebook)
        wanted.append(stored(shell.store, a_manifest(
            kernel_id, notebook={"path": notebook, "sha256": ""})).id)
    listed = shell.run("list", "job.ipynb", "--json").document
    assert sorted(m["id"] for m in listed) == sorted(wanted)


def test_list_of_what_may_be_two_kernels_is_refused(shell: Shell) -> None:
    for kernel_id in ("abcd" + KERNEL_ID[4:], "abcd" + OTHER_ID[4:]):
        shell.kernels.add(kernel_id, notebook=str(shell.folder / "job.ipynb"))
        stored(shell.store, a_manifest(kernel_id))
    for text in ("abcd", "job.ipynb"):
        assert shell.run("list", text, "--json").error["id"] == "ambiguous-id"


def test_show_tells_all_about_one(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest(name="half-way", note="[bold]not markup"))
    assert shell.run("show", manifest.id[:6], "--json").document == manifest.to_dict()
    ran = shell.run("show", "half-way")
    for part in (manifest.id, "half-way", "[bold]not markup", "60 MB", "In [7]", "120 ms"):
        assert part in ran.out


@pytest.mark.parametrize("made", [{"trigger": "interval", "purpose": "pressure"},
                                  {"trigger": "pressure"}])
def test_show_tells_that_memory_ran_short(shell: Shell, made: dict[str, str]) -> None:
    manifest = stored(shell.store, a_manifest(**made))
    assert "memory ran short" in shell.run("show", manifest.id).out


def test_ps_lists_the_kernels(shell: Shell) -> None:
    shell.kernels.add(notebook=str(shell.folder / "job.ipynb"))
    (kernel,) = shell.run("ps", "--json").document
    assert set(kernel) == {"kernel_id", "name", "notebook", "pid", "state", "memory_bytes", "mode",
                           "last_checkpoint"}
    ran = shell.run("ps")
    for part in (KERNEL_ID[:8], "job.ipynb", str(os.getpid()), "running", "60 MB"):
        assert part in ran.out


def test_ps_names_a_record_that_cannot_be_read(shell: Shell) -> None:
    folder = shell.locations.runtime_dir / OTHER_ID
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    assert OTHER_ID in shell.run("ps").err


def test_rename_gives_a_name_that_stands_for_the_id(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    assert shell.run("rename", manifest.id, "good run", "--json").document["name"] == "good run"
    assert shell.run("show", "good run", "--json").document["id"] == manifest.id


def test_pin_and_unpin_change_the_manifest(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    assert shell.run("pin", manifest.id, "--json").document["pinned"] is True
    assert shell.run("unpin", manifest.id, "--json").document["pinned"] is False
    assert "pinned" in shell.run("pin", manifest.id).err


def test_rm_and_gc_free_the_space(shell: Shell) -> None:
    first, second = (stored(shell.store, a_manifest(), os.urandom(200_000)) for _ in range(2))
    assert shell.run("rm", first.id, first.id[:8], "--json").document == {"removed": [first.id]}
    assert [m.id for m in shell.store.manifests()] == [second.id]
    freed = shell.run("gc", "--json").document
    assert set(freed) == {"removed_chunks", "removed_bytes"}
    assert freed["removed_bytes"] >= 200_000
    assert "Nothing to free" in shell.run("gc").err


def test_gc_frees_what_a_killed_agent_was_working_on(shell: Shell) -> None:
    abandoned = shell.store.root / "work" / "1-1-request-abcd"  # no process began so early
    (shell.store.root / "work").mkdir(mode=0o700)
    (abandoned / "images").mkdir(parents=True)
    (abandoned / "images" / "pages-1.img").write_bytes(os.urandom(100_000))
    assert shell.run("gc", "--json").document["removed_bytes"] >= 100_000
    assert not abandoned.exists()


def test_rm_with_one_unknown_id_removes_nothing(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    assert shell.run("rm", manifest.id, "ffffffffffff", "--json").error["code"] == 3
    assert shell.store.manifests()


def test_verify_of_whole_checkpoints_finds_nothing(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    ran = shell.run("verify", "--json")
    assert (ran.code, ran.document) == (0, {"checked": 1, "bad": []})
    assert shell.run("verify", manifest.id[:8]).code == 0


def test_verify_of_a_damaged_chunk_names_the_checkpoint_and_exits_7(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest(), os.urandom(200_000))
    chunks = [p for p in (shell.locations.store_dir / "chunks").rglob("*") if p.is_file()]
    largest = max(chunks, key=lambda path: path.stat().st_size)
    rot(largest)
    ran = shell.run("verify", "--json")
    assert (ran.code, ran.document["checked"]) == (7, 1)
    assert [entry["id"] for entry in ran.document["bad"]] == [manifest.id]
    human = shell.run("verify")
    assert human.code == 7
    assert manifest.id in human.out


def test_fork_prints_each_copy(shell: Shell) -> None:
    shell.kernels.add()
    assert shell.run("fork", KERNEL_ID, "-n", "2", "--json").document == [
        {"kernel_id": f"copy-{i}", "connection_file": f"/run/kernel-copy-{i}.json"}
        for i in range(2)]
    assert shell.run("fork", KERNEL_ID).out == "copy-0  /run/kernel-copy-0.json\n"


def test_start_writes_a_connection_file_and_launches(shell: Shell, monkeypatch) -> None:
    monkeypatch.setenv("MARK", "inherited")
    document = shell.run("start", "--json").document
    assert set(document) == {"kernel_id", "connection_file"}
    folder = shell.locations.connection_dir
    assert document["connection_file"] == str(folder / f"kernel-{document['kernel_id']}.json")
    assert os.stat(document["connection_file"]).st_mode & 0o777 == 0o600
    ((_, launched),) = shell.kernels.calls
    assert launched["connection"]["ip"] == "127.0.0.1"
    assert len(launched["connection"]["key"]) >= 32
    assert document["connection_file"] in launched["cmd"]
    assert (launched["cwd"], launched["language"]) == (str(shell.folder), "python")
    assert launched["env"]["MARK"] == "inherited"
    assert "JPY_PARENT_PID" not in launched["env"]


def test_start_for_a_notebook_notes_its_absolute_path(shell: Shell) -> None:
    (shell.folder / "job.ipynb").write_text(
        '{"cells": [], "metadata": {"kernelspec": {"name": "python3"}}}')
    assert shell.run("start", "--notebook", "job.ipynb", "--json").code == 0
    (record,) = shell.kernels.records
    assert (record.notebook, record.kernel_name) == (str(shell.folder / "job.ipynb"), "python3")


def test_start_that_fails_leaves_no_connection_file(shell: Shell) -> None:
    shell.kernels.failure = OSError(28, "No space left on device")
    assert shell.run("start", "--json").error["id"] == "launch-failed"
    assert list(shell.locations.connection_dir.glob("kernel-*.json")) == []


def test_start_in_a_runtime_folder_that_cannot_be_made_says_so(
        shell: Shell, monkeypatch) -> None:
    (shell.folder / "file").touch()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(shell.folder / "file" / "runtime"))
    ran = shell.run("start", "--json")
    assert ran.error["id"] == "launch-failed"
    assert str(shell.folder / "file" / "runtime") in ran.error["hint"]
    assert shell.kernels.calls == []


def test_stop_ends_the_kernel(shell: Shell) -> None:
    shell.kernels.add()
    assert shell.run("stop", KERNEL_ID[:6], "--json").document == {"stopped": KERNEL_ID}
    assert shell.kernels.records == []


def test_another_store_is_used_when_named(shell: Shell) -> None:
    shell.kernels.add()
    ran = shell.run("save", "--store", str(shell.folder / "elsewhere"), "--json")
    assert shell.run("list", "--json").document == []
    listed = shell.run("list", "--store", str(shell.folder / "elsewhere"), "--json").document
    assert [m["id"] for m in listed] == [ran.document["id"]]


def test_schedule_is_set_shown_and_switched_off(shell: Shell) -> None:
    shell.kernels.add()
    ran = shell.run("schedule", KERNEL_ID[:6], "--every", "10m", "--keep", "3", "--json")
    wanted = {"kernel_id": KERNEL_ID, "every_s": 600.0, "cells": None, "keep": 3,
              "keep_hourly": 0, "keep_daily": 0, "next_due_s": 600.0, "last_automatic": None}
    assert (ran.code, ran.document) == (0, wanted)
    assert shell.run("schedule", KERNEL_ID, "--json").document == wanted
    assert shell.kernels.calls[-1][1]["changes"] is None
    ran = shell.run("schedule", KERNEL_ID, "--cells", "5", "--keep-hourly", "24", "--keep-daily",
                    "1")
    assert ran.out.strip() == (
        "Automatic checkpoints every 10m and after every 5 cells; the last 3 are kept, and the "
        "newest of each of the last 24 hours and 1 day.")
    assert "Due in 10 min" in ran.err
    assert shell.run("schedule", KERNEL_ID, "--off").out.strip() == "No automatic checkpoints."


def test_schedule_tells_how_the_last_one_went(shell: Shell) -> None:
    shell.kernels.add()
    shell.kernels.last_automatic = {"at": "2026-01-01T00:00:00.000Z", "id": "ab" * 8, "error": None}
    assert "abababab" in shell.run("schedule", KERNEL_ID).err
    shell.kernels.last_automatic = {"at": "2026-01-01T00:00:00.000Z", "id": None,
                                    "error": {"message": "The disk is full."}}
    ran = shell.run("schedule", KERNEL_ID)
    assert (ran.code, "failed: The disk is full." in ran.err) == (0, True)
