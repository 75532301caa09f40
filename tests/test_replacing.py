"""A restore in place that fails leaves the session as it was, whichever step fails."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faulty_kernel import Kernel
from session_kit import shell_in

from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.offers import all_offers

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
