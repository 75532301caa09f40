"""A restore in place that fails leaves the session as it was, whichever step fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_kernel import Kernel
from session_kit import shell_in

from jupyter_ckpt import kernels
from jupyter_ckpt.agent.exchange import JOURNAL
from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.errors import UsageError
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import new_id
from jupyter_ckpt.offers import all_offers
from jupyter_ckpt.procfs import all_pids
from jupyter_ckpt.store import Store

STOPPED = ["restore.stopped", "restore.boxed", "restore.files-back", "restore.edited",
           "restore.running", "restore.told", "restore.recorded"]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        plan = shell.home / "plan"
        plan.mkdir()
        plan.chmod(0o777)
        found = Kernel(shell, plan)
        yield found
        found.arm()
        found.talker.close()


def refused_restore(kernel: Kernel, *faults: dict[str, object]) -> dict[str, str]:
    """Restore an older state with `faults`, which must fail; return the error."""
    kernel.talker.run("since = 'before'")
    saved = kernel.shell.ckpt("save", kernel.id)
    kernel.talker.run("since = 'after'")
    kernel.arm(*faults)
    code, error = kernel.shell.refused("restore", saved["id"], "--in-place", "--no-server")
    assert code == 6
    assert kernel.fired() == len(faults)
    return error


def assert_nothing_is_left_to_do(kernel: Kernel) -> None:
    record = kernel.record()
    assert (record.recover, record.replaced_by) == (None, None)
    kernel.talker.wait_until_ready()
    assert kernel.talker.run("print(since)") == "after"


@pytest.mark.parametrize("point", ["restore.unpacked", "restore.saved", "restore.marked"])
def test_failure_before_the_old_kernel_is_stopped_leaves_it_alone(
    kernel: Kernel, point: str
) -> None:
    old = kernel.record().kernel
    refused_restore(kernel, {"point": point, "act": "eio"})
    assert kernel.record().kernel == old
    assert_nothing_is_left_to_do(kernel)


def test_failure_to_note_what_to_bring_back_leaves_the_old_kernel_alone(kernel: Kernel) -> None:
    old = kernel.record().kernel
    refused_restore(kernel, {"point": "record.written", "act": "enospc"})
    assert kernel.record().kernel == old
    assert_nothing_is_left_to_do(kernel)


def test_restore_that_is_to_replace_nobody_leaves_alone_who_was_faster(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.talker.run("since = 'after'")
    saved = kernel.shell.ckpt("save", kernel.id)
    before = kernel.record()
    monkeypatch.setattr(kernels, "_living", lambda locations, kernel_id: None)
    runtime = kernel.shell.home / "runtime"
    manifest = Store.open(kernel.shell.store).resolve(saved["id"])
    locations = Locations(runtime / "ckpt", runtime, kernel.shell.store)
    with pytest.raises(UsageError, match="is running"):
        kernels.restore(locations, manifest, kernel_id=kernel.id)
    after = kernel.record()
    assert (after.kernel, after.agent, after.parent) == (
        before.kernel, before.agent, before.parent)
    assert_nothing_is_left_to_do(kernel)


@pytest.mark.parametrize("point", STOPPED)
def test_failure_after_the_old_kernel_was_stopped_brings_its_state_back(
    kernel: Kernel, point: str
) -> None:
    error = refused_restore(kernel, {"point": point, "act": "eio"})
    assert "again as it was before the attempt" in error["message"]
    assert_nothing_is_left_to_do(kernel)
    assert len(kernel.shell.ckpt("ps")) == 1


def test_restore_whose_log_cannot_be_kept_is_undone_all_the_same(kernel: Kernel) -> None:
    """Written before: what to bring back, and the box; then, were there room, criu's log."""
    error = refused_restore(kernel, {"point": "restore.running", "act": "eio"},
                            {"point": "record.written", "act": "enospc", "nth": 3})
    assert "again as it was before the attempt" in error["message"]
    assert_nothing_is_left_to_do(kernel)
    assert len(kernel.shell.ckpt("ps")) == 1


@pytest.mark.parametrize(("point", "nth"), [
    ("record.written", 5), ("record.written", 6), ("restore.boxed", 2)])
def test_agent_killed_while_it_undoes_a_restore_is_followed_by_one_that_restores(
    kernel: Kernel, point: str, nth: int
) -> None:
    kernel.talker.run("since = 'before'")
    saved = kernel.shell.ckpt("save", kernel.id)
    kernel.talker.run("since = 'after'")
    # Written until then: what to bring back, the box, the connection file, the new kernel;
    # now, before that is ended again: what to bring back; then another box.
    kernel.arm({"point": "restore.recorded", "act": "eio"},
               {"point": point, "act": "kill", "nth": nth})
    kernel.shell.ckpt("restore", saved["id"], "--in-place", "--no-server")
    assert kernel.fired() == 2
    kernel.talker.wait_until_ready()
    assert kernel.talker.run("print(since)") == "before"
    assert len(kernel.shell.ckpt("ps")) == 1


def test_state_saved_into_another_store_is_brought_back_by_an_agent_of_the_usual_one(
    kernel: Kernel
) -> None:
    elsewhere = str(kernel.shell.home / "elsewhere")
    saved = kernel.shell.ckpt("save", kernel.id, "--store", elsewhere)
    kernel.talker.run("since = 'kept elsewhere'")
    kernel.arm({"point": "restore.stopped", "act": "kill"})
    agent = kernel.record().agent
    assert agent is not None
    AgentClient(kernel.folder).put("restores", "into-elsewhere", {
        "checkpoint": saved["id"], "store": elsewhere,
        "connection_file": kernel.record().connection_file})
    while agent.is_alive():
        pass
    assert kernel.fired() == 1
    assert [row["kernel_id"] for row in kernel.shell.ckpt("ps")] == [kernel.id]
    kernel.talker.wait_until_ready()
    assert kernel.talker.run("print(since)") == "kept elsewhere"


WRITES = """
notes = open({path!r}, "w")
notes.write("of the checkpoint"); notes.flush()
"""


def saved_with_notes(kernel: Kernel) -> tuple[str, Path]:
    """Save while the kernel writes to a file that it then closes; the user changes that.

    Returns the checkpoint's id and the file.
    """
    path = kernel.shell.home / "notes.txt"
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    kernel.talker.run(WRITES.format(path=str(path)))
    saved = kernel.shell.ckpt("save", kernel.id)["id"]
    kernel.talker.run(f"notes.close(); open({str(path)!r}, 'w').write('of the user')")
    return saved, path


def names_beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir()
                  if each.name.startswith((path.name, ".ckpt-")))


@pytest.mark.parametrize("point", ["restore.files-back", "restore.running"])
def test_files_are_as_before_when_the_old_session_comes_back_after_a_death(
    kernel: Kernel, point: str
) -> None:
    saved, path = saved_with_notes(kernel)
    kernel.talker.run("since = 'kept'")
    kernel.arm({"point": point, "act": "kill"})
    agent = kernel.record().agent
    assert agent is not None
    AgentClient(kernel.folder).put("restores", f"dies-at-{point[8:]}", {
        "checkpoint": saved, "connection_file": kernel.record().connection_file})
    while agent.is_alive():
        pass
    assert kernel.fired() == 1
    assert [row["kernel_id"] for row in kernel.shell.ckpt("ps")] == [kernel.id]
    kernel.talker.wait_until_ready()
    assert kernel.talker.run("print(since)") == "kept"
    assert path.read_text() == "of the user"
    assert names_beside(path) == [path.name]
    assert not (kernel.folder / JOURNAL).exists()


@pytest.mark.parametrize("point", ["restore.files-back", "restore.told", "restore.recorded"])
@pytest.mark.parametrize("how", ["--in-place", "--new"])
def test_restore_that_is_repeated_after_a_death_tells_of_the_files_it_put_back(
    kernel: Kernel, point: str, how: str
) -> None:
    saved, path = saved_with_notes(kernel)
    kernel.arm({"point": point, "act": "kill"})
    made = kernel.shell.ckpt("restore", saved, how, "--no-server")
    assert kernel.fired() == 1
    assert path.read_text() == "of the checkpoint"
    backup = next(each for each in path.parent.iterdir()
                  if each.name.startswith(f"{path.name}.before-restore-"))
    assert backup.read_text() == "of the user"
    assert any(f"{path} was put back" in text and str(backup) in text
               for text in made["warnings"])
    assert names_beside(path) == [path.name, backup.name]
    if how == "--new":
        kernel.shell.ckpt("stop", made["kernel_id"])
    kernel.talker.wait_until_ready()


def test_hashes_of_files_are_not_for_everybody_to_read(kernel: Kernel) -> None:
    saved, _ = saved_with_notes(kernel)
    (notes,) = [each for each in kernel.shell.ckpt("show", saved)["files"]
                if each["path"].endswith("notes.txt")]
    assert notes["saved"]
    assert "blake3" not in notes


def with_schedule(kernel: Kernel, schedule: Any) -> str:
    """Return a checkpoint of the kernel whose restore.json has that schedule."""
    store = Store.open(kernel.shell.store)
    manifest = store.resolve(kernel.shell.ckpt("save", kernel.id)["id"])
    folder = kernel.shell.home / "unpacked"
    store.materialise(manifest, folder)
    details = json.loads((folder / "restore.json").read_text())
    (folder / "restore.json").write_text(json.dumps({**details, "schedule": schedule}))
    with store.transaction("other-schedule") as transaction:
        for name in store.names(manifest):
            transaction.add_file(name, folder / name)
        return transaction.commit(replace(manifest, id=new_id())).id


def test_senseless_schedule_is_refused_before_anything_is_touched(kernel: Kernel) -> None:
    kernel.arm()
    old = kernel.record().kernel
    senseless = with_schedule(kernel, {"every_s": "often"})
    kernel.shell.ckpt("schedule", kernel.id, "--off")
    code, error = kernel.shell.refused("restore", senseless, "--new", "--no-server")
    assert (code, error["id"]) == (7, "integrity")
    assert "schedule in restore.json" in error["message"]
    assert kernel.record().kernel == old
    later = with_schedule(kernel, {"cells": 500, "keep": 2, "at": "noon"})
    made = kernel.shell.ckpt("restore", later, "--new", "--no-server")
    assert any("holds at, which this version does not know" in text for text in made["warnings"])
    assert kernel.shell.ckpt("schedule", made["kernel_id"])["cells"] == 500
    kernel.shell.ckpt("stop", made["kernel_id"])


def test_failure_to_note_the_restored_kernel_leaves_no_box(kernel: Kernel) -> None:
    saved = kernel.shell.ckpt("save", kernel.id)["id"]
    epoch = kernel.folder.parent / ".epoch"
    epoch.rename(kernel.shell.home / "epoch")
    epoch.mkdir()
    try:
        kernel.shell.refused("restore", saved, "--new", "--no-server")
    finally:
        epoch.rmdir()
        (kernel.shell.home / "epoch").rename(epoch)
    boxes = [words for pid in all_pids() if (words := command_line(pid))[1:3] == [
        b"init", b"--runtime"] and words[3].startswith(os.fsencode(kernel.folder.parent))]
    assert [words[3] for words in boxes] == [os.fsencode(kernel.folder)]


def command_line(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def test_state_that_cannot_be_brought_back_is_named(kernel: Kernel) -> None:
    error = refused_restore(kernel, {"point": "restore.edited", "act": "eio"},
                            {"point": "restore.edited", "act": "eio", "nth": 2})
    assert "could not be brought back, either" in error["message"]
    newest = kernel.shell.ckpt("list")[0]["id"]
    assert newest in error["hint"]
    kernel.arm()
    [offer] = all_offers(kernel.folder.parent)
    assert (offer.kernel_id, offer.checkpoint) == (kernel.id, newest)
    restored = kernel.shell.ckpt("restore", newest, "--no-server")
    assert restored["kernel_id"] == kernel.id
    assert all_offers(kernel.folder.parent) == []
    assert_nothing_is_left_to_do(kernel)
