"""Work folders: what an act leaves there goes, also when somebody still writes into it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt.agent import tools
from jupyter_ckpt.agent.tools import (
    Tools,
    criu_mark,
    finish_removals,
    remove_abandoned,
    remove_work,
)
from jupyter_ckpt.box.namespaces import NamespaceBox
from jupyter_ckpt.errors import KernelNotFound
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.store import Store

NO_PAUSES = (0.0, 0.0, 0.0)


class LateCopy:
    """Stands for a copy that hung, was given up, and writes `times` more."""

    def __init__(self, times: int) -> None:
        self.times = times

    def rmtree(self, folder: Path, ignore_errors: bool) -> None:
        rmtree(folder, ignore_errors)
        if self.times > 0:
            self.times -= 1
            (folder / "copies").mkdir(parents=True)


rmtree = shutil.rmtree


def test_folder_that_is_written_to_for_some_time_yet_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.shutil, "rmtree", LateCopy(2).rmtree)
    assert remove_work(tmp_path / "work", NO_PAUSES)
    assert not (tmp_path / "work").exists()


def test_folder_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tools.shutil, "rmtree", LateCopy(10).rmtree)
    assert not remove_work(tmp_path / "work", NO_PAUSES)
    assert str(tmp_path / "work") in caplog.text


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Tools]:
    Store.open(tmp_path / "store")
    yield Tools(tmp_path / "runtime", tmp_path / "store", tmp_path)
    finish_removals(10)


def test_folder_of_an_agent_that_is_not_seen_here_stays_until_it_ends(
    agent: Tools, tmp_path: Path
) -> None:
    top = tmp_path / "store" / "work"
    with agent.work_folder("mine") as folder:
        # As an agent in another pid namespace names it: nobody here has that pid.
        elsewhere = top / "4000001-77-theirs"
        folder.rename(elsewhere)
        (elsewhere / "images").mkdir()
        assert remove_abandoned(top) == 0
        assert (elsewhere / "images").is_dir()
        elsewhere.rename(folder)
    finish_removals(10)
    assert list(top.iterdir()) == []


def test_folder_of_an_agent_that_was_killed_goes(agent: Tools, tmp_path: Path) -> None:
    top = tmp_path / "store" / "work"
    begun, told = os.pipe()
    child = os.fork()
    if child == 0:
        with agent.work_folder("theirs") as folder:
            (folder / "image").write_bytes(b"x" * 9000)
            os.write(told, b"begun")
            signal.pause()
    try:
        assert os.read(begun, 5) == b"begun"
        (folder,) = top.iterdir()
        # Even where its name tells of a process that lives here: its lock counts.
        own = ProcessId.of(os.getpid())
        assert own is not None
        folder = folder.rename(top / f"{own.pid}-{own.start_time}-theirs")
        assert remove_abandoned(top) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(told)
    assert remove_abandoned(top) >= 9000
    assert list(top.iterdir()) == []


def test_folders_of_older_versions_go_by_their_names(agent: Tools, tmp_path: Path) -> None:
    top = tmp_path / "store" / "work"
    top.mkdir(mode=0o700)
    own = ProcessId.of(os.getpid())
    assert own is not None
    names = {"4000001-77-dead-x", f"4000001-77{criu_mark('dead')}x",
             f"{own.pid}-{own.start_time}-alive-x", "other"}
    for name in names:
        (top / name).mkdir()
    remove_abandoned(top)
    assert {path.name for path in top.iterdir()} == {
        name for name in names if "dead" not in name}


def test_box_that_has_ended_is_not_said_to_lie_elsewhere(tmp_path: Path) -> None:
    """It sees no folder at all; that the store lies elsewhere would be a false trail."""
    with subprocess.Popen(["sleep", "60"]) as process:
        init = ProcessId.of(process.pid)
        assert init is not None
        process.kill()
    box = NamespaceBox(Path("ckpt-box"), tmp_path, "root", init)
    with pytest.raises(KernelNotFound, match="ended"):
        Tools(tmp_path, tmp_path, tmp_path).criu(box, "root", tmp_path)
