"""The one agent's place: how a hung agent is helped or ended, and what is stale."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt import parking
from jupyter_ckpt.agent import pressure
from jupyter_ckpt.agent_place import (
    Place,
    help_or_end_hung,
    holder,
    lock_path,
    remove_stale,
    take,
)
from jupyter_ckpt.box import NamespaceBox
from jupyter_ckpt.errors import ModeUnavailable, StoreUnusable
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.native_build import native_path
from jupyter_ckpt.procfs import ProcessId, stat_fields
from jupyter_ckpt.record import Record, write_record

HOLDER = """
import sys
from pathlib import Path
from jupyter_ckpt.agent_place import take
place = take(Path(sys.argv[1]))
place.name_holder()
print("held", flush=True)
for line in sys.stdin:
    print("answer", flush=True)
"""
SHORT_S = 0.3


class Holder:
    """A process that holds a place, and answers unless it is deaf or stopped."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)], text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def answers(self) -> bool:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin)
        if not select.select([self.process.stdout], [], [], 0.1)[0]:
            return False
        return self.process.stdout.readline() == "answer\n"

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    return folder


@pytest.fixture
def agent(folder: Path) -> Iterator[Holder]:
    found = Holder(folder)
    yield found
    found.end()


def test_holder_is_known_while_it_lives(folder: Path, agent: Holder) -> None:
    assert holder(folder) == ProcessId.of(agent.process.pid)
    agent.end()
    assert holder(folder) is None
    assert not help_or_end_hung(folder, lambda: False)


def test_stopped_agent_is_continued_and_answers(folder: Path, agent: Holder) -> None:
    agent.stop()
    assert not agent.answers()
    assert help_or_end_hung(folder, agent.answers)
    fields = stat_fields(agent.process.pid)
    assert fields is not None
    assert fields[0] != "T"
    assert take(folder, lambda: True) is None, "it has its place"


@pytest.mark.parametrize("stopped", [False, True])
def test_agent_that_never_answers_is_killed_and_its_place_is_free(
    folder: Path, agent: Holder, stopped: bool
) -> None:
    if stopped:
        agent.stop()
    assert not help_or_end_hung(folder, lambda: False, SHORT_S)
    assert agent.process.wait(10) == -signal.SIGKILL
    place = take(folder)
    assert place is not None
    place.leave()


def test_holder_that_a_lock_file_names_wrongly_is_not_killed(
    folder: Path, agent: Holder, tmp_path: Path
) -> None:
    other = tmp_path / "kernel-0002"
    lock_path(other).write_text(lock_path(folder).read_text())
    assert holder(other) is None
    assert not help_or_end_hung(other, lambda: False, SHORT_S)
    assert agent.process.poll() is None


# -- what is stale -------------------------------------------------------------------------
def test_remove_stale_takes_what_a_dead_agent_left_without_a_kernel(
    folder: Path, agent: Holder
) -> None:
    (folder / "agent.log").write_text("the agent was killed here")
    agent.end()
    assert lock_path(folder).exists()
    remove_stale(folder.parent)
    assert not folder.exists()
    assert not lock_path(folder).exists()


def test_remove_stale_leaves_a_living_agent_and_a_kernel_alone(
    folder: Path, agent: Holder, tmp_path: Path
) -> None:
    recorded = tmp_path / "kernel-0002"
    recorded.mkdir()
    write_record(recorded, Record("kernel-0002"))
    lock_path(recorded).touch()
    remove_stale(tmp_path)
    assert folder.exists()
    assert holder(folder) is not None
    assert (recorded / "record.json").exists()


def test_remove_stale_ends_the_box_that_nobody_recorded(folder: Path) -> None:
    mode = "root" if os.geteuid() == 0 else "rootless"
    try:
        box = NamespaceBox.create(native_path("ckpt-box"), folder, mode)
    except ModeUnavailable as error:
        pytest.skip(error.message)
    lock_path(folder).touch()
    try:
        remove_stale(folder.parent)
        assert not box.init.is_alive()
    finally:
        box.stop()
    assert not folder.exists()


def test_remove_stale_leaves_alone_what_agents_and_servers_agree_by(tmp_path: Path) -> None:
    (tmp_path / pressure.LOCK_NAME).touch()
    locations = Locations(tmp_path, tmp_path, tmp_path / "no store")
    with pytest.raises(StoreUnusable), parking.claimed(locations, "feed11112222"):
        pass
    agreed = sorted(tmp_path.iterdir())
    assert len(agreed) == 2
    remove_stale(tmp_path)  # just when somebody has opened one of them, and not locked it yet
    assert sorted(tmp_path.iterdir()) == agreed


def test_remove_stale_without_a_folder_does_nothing(tmp_path: Path) -> None:
    remove_stale(tmp_path / "none")


def test_agent_on_a_full_disk_goes_on_without_its_name(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_RDWR)  # whoever writes here hears that the disk is full
    Place(tmp_path / ".kernel-0001.lock", full).name_holder()
    os.close(full)
