"""What a dead agent had started is found and ended, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt.agent.tools import criu_mark
from jupyter_ckpt.agent_place import lock_path, remove_stale
from jupyter_ckpt.box import NamespaceBox, OpenBox
from jupyter_ckpt.box.contract import end_boxes_of, identities, kill_and_wait
from jupyter_ckpt.box.reaping import ended_are_reaped
from jupyter_ckpt.engine.holders import holders, kill_all
from jupyter_ckpt.errors import LaunchFailed
from jupyter_ckpt.native_build import native_path
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.remains import end_remains, restore_mark

WAIT = "import signal; print('up', flush=True); signal.pause()"
NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Called:
    """A process that waits, under a name and with words of the test's choice."""

    def __init__(self, name: str, *words: str, stdout: Path | None = None,
                 user: int | None = None) -> None:
        self.process = subprocess.Popen(
            [name, "-c", WAIT, *words], executable=os.path.realpath(sys.executable), text=True,
            stdout=subprocess.PIPE, user=user)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"  # /proc shows its words by now

    @property
    def identity(self) -> ProcessId | None:
        return ProcessId.of(self.process.pid)

    def end(self) -> int:
        self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.wait()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    return folder


@pytest.fixture
def open_box(folder: Path, tmp_path: Path) -> Iterator[OpenBox]:
    box = OpenBox.create(native_path("ckpt-box"), folder, str(tmp_path / "alias"))
    box.start_root(["sleep", "1000"], os.environ, "/")
    yield box
    box.stop()


# -- boxes -----------------------------------------------------------------------------------
def test_tree_without_a_box_is_ended_with_the_folder_that_nobody_recorded(
    folder: Path, open_box: OpenBox
) -> None:
    assert open_box.root is not None
    tree = identities(open_box.root)
    lock_path(folder).touch()
    remove_stale(folder.parent)
    assert not any(each.is_alive() for each in tree)
    assert not folder.exists()


def test_tree_of_another_folder_and_who_only_reads_its_log_go_on(
    folder: Path, open_box: OpenBox, tmp_path: Path
) -> None:
    assert open_box.root is not None
    other = tmp_path / "kernel-0002"
    other.mkdir()
    with (other / "kernel.log").open("wb") as log:
        reader = subprocess.Popen(["sleep", "1000"], stdout=log)
    try:
        end_boxes_of(other)
        assert open_box.root.is_alive()
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


@only_root
def test_words_of_a_box_make_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "init").write_text(WAIT)
    pretender = subprocess.Popen([sys.executable, "init", "--runtime", str(folder)], cwd=tmp_path,
                                 text=True, stdout=subprocess.PIPE)
    assert pretender.stdout is not None and pretender.stdout.readline() == "up\n"
    try:
        box = NamespaceBox.create(native_path("ckpt-box"), folder, "root")
        end_boxes_of(folder)
        assert not box.init.is_alive()
        assert pretender.poll() is None
    finally:
        pretender.kill()
        pretender.stdout.close()
        pretender.wait()


def test_restore_that_a_dead_agent_had_begun_is_ended_and_a_dump_is_not(folder: Path) -> None:
    restore = Called("criu", f"{folder}/1-2{restore_mark(folder.name)}x/images")
    dump = Called("criu", f"{folder}/1-2{criu_mark(folder.name)}x/images")
    try:
        end_remains(folder)
        assert restore.process.wait(10) == -signal.SIGKILL
        assert dump.process.poll() is None
    finally:
        restore.end()
        dump.end()


def test_runs_of_kernels_whose_ids_end_alike_are_told_apart(folder: Path) -> None:
    other = Called("criu", f"{folder}/1-2{restore_mark(f'x-{folder.name}')}x/images")
    try:
        end_remains(folder)
        assert other.process.poll() is None
    finally:
        other.end()


def test_what_a_restore_that_is_given_up_had_made_ends_with_it(tmp_path: Path) -> None:
    mark = str(tmp_path / "images")
    program = "import subprocess, signal; subprocess.Popen(['sleep', '600']); " + WAIT
    criu = subprocess.Popen(["criu", "-c", program, mark], executable=sys.executable, text=True,
                            stdout=subprocess.PIPE)
    assert criu.stdout is not None and criu.stdout.readline() == "up\n"
    tree = identities(ProcessId.of(criu.pid))
    assert len(tree) == 2
    kill_all(mark)
    assert not any(each.is_alive() for each in tree)
    criu.stdout.close()
    criu.wait()


# -- who takes part in a run of criu -----------------------------------------------------------
def test_only_criu_and_its_helpers_hold_a_run(tmp_path: Path) -> None:
    mark = str(tmp_path / "images")
    reader = Called("tail", f"{mark}/dump.log")
    helpers = [Called(name, mark) for name in ("criu", "/x/ckpt-box", "/x/ckpt-notify")]
    try:
        assert set(holders(mark)) == {each.identity for each in helpers}
    finally:
        for each in (reader, *helpers):
            each.end()


@only_root
def test_process_of_another_user_holds_no_run(tmp_path: Path) -> None:
    stranger = Called("criu", str(tmp_path), user=NOBODY)
    try:
        assert holders(str(tmp_path)) == [stranger.identity] * (os.geteuid() == NOBODY)
    finally:
        stranger.end()


# -- ending ------------------------------------------------------------------------------------
@only_root
def test_process_of_another_user_keeps_no_other_alive() -> None:
    strange, own = Called("a", user=NOBODY - 1), Called("b", user=NOBODY)
    victims = [each.identity for each in (strange, own)]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(NOBODY)
        try:
            kill_and_wait([victim for victim in victims if victim is not None])
        except LaunchFailed as error:
            os.write(writer, error.message.encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    try:
        assert own.process.wait(10) == -signal.SIGKILL
        assert strange.process.poll() is None
        assert str(strange.process.pid) in told and "another user" in told
    finally:
        strange.end()
        own.end()


# -- whether anybody takes notice --------------------------------------------------------------
def test_orphans_are_reaped_here_and_not_below_a_process_that_does_not_care() -> None:
    code = ("import ctypes; ctypes.CDLL(None).prctl(36, 1)\n"  # PR_SET_CHILD_SUBREAPER
            "from jupyter_ckpt.box.reaping import ended_are_reaped\n"
            "print(ended_are_reaped(1.0))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert isinstance(ended_are_reaped(0.2), bool)
