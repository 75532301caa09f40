"""Ends that nobody planned: what the agent that is there, or the next one, makes of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from fake_kernels import a_manifest, stored
from faulty_kernel import Kernel
from inkernel_harness import until
from record_kit import GONE
from session_kit import Talker, shell_in

from jupyter_ckpt import offers
from jupyter_ckpt.agent.core import Agent
from jupyter_ckpt.agent.kernel import Kernel as Recorded
from jupyter_ckpt.agent.kernel import open_alias
from jupyter_ckpt.agent.replacing import NOT_BACK, recover
from jupyter_ckpt.agent.tools import Tools
from jupyter_ckpt.box import OpenBox
from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job, checkpoint_id
from jupyter_ckpt.record import RECORD_NAME, Record, read_record, write_record
from jupyter_ckpt.store import Store

ID = "kernel-0001"


class Place:
    """A runtime folder with the record of a kernel that is gone, and a store."""

    def __init__(self, top: Path) -> None:
        self.locations = Locations(top / "ckpt", top, top / "store")
        self.folder = self.locations.folder(ID)
        self.folder.mkdir(parents=True, mode=0o700)
        self.locations.runtime_dir.chmod(0o700)

    def next_agent(self, record: Record) -> Agent:
        write_record(self.folder, record)
        tools = Tools(self.locations.runtime_dir, self.locations.store_dir,
                      self.locations.connection_dir)
        return Agent(tools, self.folder, lambda: None)

    def checkpoint(self, **changes: Any) -> str:
        return stored(Store.open(self.locations.store_dir), a_manifest(ID, **changes)).id

    def offers(self) -> list[tuple[str, str | None]]:
        return [(o.how, o.checkpoint) for o in offers.all_offers(self.locations.runtime_dir)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(("ended", "how"), [
    ("signal 11\n", "crashed with signal 11, SIGSEGV"), (None, "everything was killed")])
def test_next_agent_offers_a_session_that_crashed(
    place: Place, ended: str | None, how: str
) -> None:
    saved = place.checkpoint()
    if ended is not None:
        (place.folder / offers.ENDED_NAME).write_text(ended)
    agent = place.next_agent(Record(ID, kernel=GONE, root=GONE, parent=saved))
    assert agent.kernel is None
    assert place.offers() == [(how, saved)]
    assert not (place.folder / RECORD_NAME).exists()


@pytest.mark.parametrize("record", [
    Record(ID, kernel=GONE), Record(ID)], ids=["ended as planned", "never began"])
def test_next_agent_offers_nothing_else(place: Place, record: Record) -> None:
    (place.folder / offers.ENDED_NAME).write_text("exit 0\n")
    place.next_agent(record)
    assert place.offers() == []


def test_recovery_that_fails_leaves_an_offer_of_what_was_to_be_brought_back(place: Place) -> None:
    before = place.checkpoint(created_at="2026-01-01T00:00:00.000Z")
    last = place.checkpoint(created_at="2026-01-02T00:00:00.000Z", purpose="before-restore")
    agent = place.next_agent(Record(ID, kernel=GONE, parent=before, recover=last))
    assert agent.unfinished is not None
    assert place.offers() == [], "it may yet come back"
    with pytest.raises(CheckpointError):
        recover(agent, Job("recover-it", "restores"))  # it holds no process
    assert place.offers() == [(NOT_BACK, last)]
    assert not (place.folder / RECORD_NAME).exists()


def test_alias_of_a_tree_without_a_box_is_kept_by_the_next_agent(tmp_path: Path) -> None:
    own = ProcessId.of(os.getpid())
    record = Record(ID, mode="caps", kernel=own, root=own, alias="/tmp/.of-another-id")
    for found, alias in ((record, "/tmp/.of-another-id"),
                         (replace(record, alias=None), open_alias(ID))):
        read = Record.from_dict(found.to_dict())
        box = cast(OpenBox, Recorded.attach(read, tmp_path, tmp_path).box)
        assert box.inner_runtime == alias


# -- real kernels ----------------------------------------------------------------------------
@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        plan = shell.home / "plan"
        plan.mkdir()
        plan.chmod(0o777)
        found = Kernel(shell, plan)
        yield found
        found.arm()
        found.talker.close()


def test_kernel_that_dies_while_it_is_stored_is_offered_at_that_state(kernel: Kernel) -> None:
    kernel.shell.ckpt("save", kernel.id)
    record = kernel.record()
    assert record.agent is not None and record.kernel is not None
    kernel.arm({"point": "save.thawed", "act": "hang"})
    AgentClient(kernel.folder).put("checkpoints", "the-last-words", {})
    until(kernel.fired, "the session is thawed and about to be stored")
    os.kill(record.kernel.pid, signal.SIGKILL)
    until(lambda: (kernel.folder / offers.ENDED_NAME).exists(), "the kernel's end is noted")
    kernel.arm()
    until(lambda: not record.agent.is_alive(), "the agent's end")
    [offer] = offers.all_offers(kernel.folder.parent)
    assert offer.checkpoint == checkpoint_id(kernel.id, "the-last-words")
    assert kernel.ids()[0] == offer.checkpoint


def test_record_that_cannot_be_written_after_the_commit_fails_no_save(kernel: Kernel) -> None:
    kernel.arm({"point": "record.written", "act": "enospc"})
    saved = kernel.shell.ckpt("save", kernel.id)
    assert kernel.fired() == 1
    assert kernel.ids() == [saved["id"]]


def test_agent_whose_record_cannot_be_written_serves_and_stops_its_kernel(kernel: Kernel) -> None:
    kernel.arm({"point": "record.written", "act": "enospc"})
    agent = kernel.new_agent()
    assert kernel.fired() == 1
    assert agent.status()["state"] == "running"
    kernel.shell.ckpt("stop", kernel.id)
    assert kernel.shell.ckpt("ps") == []


def test_runtime_disk_that_is_really_full(kernel: Kernel) -> None:
    """Only what needs no room there: a new agent, a save into the store, the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = kernel.shell.home / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", str(small)],
                             check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no disk can be mounted here")
    shell = kernel.shell
    usual = shell.environment["JUPYTER_RUNTIME_DIR"]
    shell.environment["JUPYTER_RUNTIME_DIR"] = str(small)
    try:
        started = shell.start()
        Talker(started["connection_file"]).close()  # or it could not even begin
        folder = small / "ckpt" / started["kernel_id"]
        with suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        agent = read_record(folder).agent
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        saved = shell.ckpt("save", started["kernel_id"])
        assert shell.ckpt("show", saved["id"])["id"] == saved["id"]
        shell.ckpt("stop", started["kernel_id"])
        assert shell.ckpt("ps") == []
    finally:
        shell.stop_all()
        shell.environment["JUPYTER_RUNTIME_DIR"] = usual
        until(lambda: subprocess.run(["umount", str(small)], check=False,
                                     capture_output=True).returncode == 0, "the disk is free")
