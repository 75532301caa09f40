"""Whatever dies or hangs between freeze and thaw, the tree runs again."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jupyter_ckpt.box import ROOT_PID, NamespaceBox
from jupyter_ckpt.engine import holders as holders_module
from jupyter_ckpt.engine.criu import Criu
from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.engine.holders import Watch, await_end, holders
from jupyter_ckpt.errors import CheckpointError, DumpFailed, RestoreFailed
from jupyter_ckpt.native_build import native_path
from jupyter_ckpt.procfs import ProcessId, command_name, descendants, stat_fields, status_lines

MODE = "root" if os.geteuid() == 0 else "rootless"
MOST_S = 60.0
SILENCE_S = 5.0

COUNT = """
import mmap, os, subprocess, sys, threading, time
child = os.fork()
name = "child" if child == 0 else "parent"
with open(sys.argv[1] + "/" + name, "r+b") as file:
    count = mmap.mmap(file.fileno(), 8)
memory = bytearray(os.urandom(30_000_000))
def go():
    while True:
        count[:8] = (int.from_bytes(count[:8], "little") + 1).to_bytes(8, "little")
        time.sleep(0.001)
threading.Thread(target=go).start()
"""


class Tree:
    """Two processes of two threads that count in shared memory, in a box of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "runtime"
        self.runtime.mkdir()
        self.counts = []
        for name in ("parent", "child"):
            (folder / name).write_bytes(b"\0" * 8)
            with (folder / name).open("rb") as file:
                self.counts.append(mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ))
        self.box = NamespaceBox.create(native_path("ckpt-box"), self.runtime, MODE)
        self.box.start_root([sys.executable, "-c", COUNT, str(folder)], os.environ, "/")
        self.assert_goes_on()

    def dump(self, while_frozen: Callable[[], None] = lambda: None,
             progress: Callable[[], object] = lambda: None,
             silence_s: float = SILENCE_S) -> float:
        images = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder), "images")
        images.mkdir()
        notifier = images.parent / "ckpt-notify"
        notifier.symlink_to(native_path("ckpt-box"))
        criu = Criu(find_criu().path, MODE, notifier, silence_s, native_path("criushim.so"))
        return criu.dump(ROOT_PID, images, self.box.command, while_frozen, progress)

    def the(self, name: str) -> int:
        """Return the pid of the process of the present dump that is called so."""
        (found,) = [p.pid for p in holders(str(self.folder) + "/run-")
                    if command_name(p.pid) == name]
        return found

    def values(self) -> list[int]:
        return [int.from_bytes(count[:8], "little") for count in self.counts]

    def assert_goes_on(self) -> None:
        """Both processes count on, and no thread of the tree is stopped or traced."""
        before, deadline = self.values(), time.monotonic() + MOST_S
        while not all(now > then for now, then in zip(self.values(), before, strict=True)):
            assert time.monotonic() < deadline, "a process of the tree stands still"
            time.sleep(0.01)
        for pid in descendants(self.box.init.pid):
            fields = stat_fields(pid)
            assert fields is None or fields[0] not in "Tt"


@pytest.fixture(scope="module")
def shared_tree() -> Iterator[Tree]:
    try:
        find_criu()
    except CheckpointError as error:
        pytest.skip(error.message)
    folder = Path(tempfile.mkdtemp(prefix="ckpt-", dir="/var/tmp"))
    tree = Tree(folder)
    yield tree
    tree.box.stop()
    shutil.rmtree(folder)


@pytest.fixture
def tree(shared_tree: Tree) -> Iterator[Tree]:
    yield shared_tree
    # After each fault, also the next save succeeds and the tree goes on.
    assert shared_tree.dump() > 0
    shared_tree.assert_goes_on()


def in_another_process(act: Callable[[], object]) -> int:
    """Run `act` in a child process (an agent that may die); return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(DumpFailed):
            act()
            code = 0
        os._exit(code)
    return pid


# -- our own side ---------------------------------------------------------------------


def test_work_that_hangs_ends_the_freeze_and_is_told(tree: Tree) -> None:
    forever = threading.Event()
    with pytest.raises(DumpFailed, match="did not end in time"):
        tree.dump(lambda: forever.wait() and None)
    tree.assert_goes_on()
    forever.set()


def test_work_that_is_slow_but_gets_on_is_waited_for(tree: Tree) -> None:
    steps = iter(range(1000))
    pause = tree.dump(lambda: time.sleep(2 * SILENCE_S), lambda: next(steps))
    assert pause > SILENCE_S


def test_agent_stopped_while_frozen_does_not_keep_the_tree_frozen(tree: Tree) -> None:
    agent = in_another_process(
        lambda: tree.dump(lambda: os.kill(os.getpid(), signal.SIGSTOP), silence_s=1.0))
    os.waitpid(agent, os.WUNTRACED)
    tree.assert_goes_on()
    os.kill(agent, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(agent, 0)[1]) == 1
    assert await_end(Watch(str(tree.folder) + "/run-"), deadline_s=MOST_S)


def test_agent_killed_while_frozen_does_not_keep_the_tree_frozen(tree: Tree) -> None:
    agent = in_another_process(lambda: tree.dump(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    os.waitpid(agent, 0)
    tree.assert_goes_on()
    assert await_end(Watch(str(tree.folder) + "/run-"), deadline_s=MOST_S)


# -- criu and those around it ---------------------------------------------------------


def test_criu_stopped_while_it_holds_the_tree_is_continued(tree: Tree) -> None:
    assert tree.dump(lambda: os.kill(tree.the("criu"), signal.SIGSTOP)) > 0
    tree.assert_goes_on()


def test_criu_stopped_and_agent_killed_the_tree_goes_on(tree: Tree) -> None:
    def die() -> None:
        os.kill(tree.the("criu"), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_another_process(lambda: tree.dump(die)), 0)
    tree.assert_goes_on()
    assert await_end(Watch(str(tree.folder) + "/run-"), deadline_s=MOST_S)


@pytest.mark.parametrize("name", ["ckpt-box", "ckpt-tracer", "ckpt-notify"])
def test_stopped_process_around_criu_is_continued(tree: Tree, name: str) -> None:
    def stop() -> None:
        victims = [p.pid for p in holders(str(tree.folder) + "/run-")
                   if command_name(p.pid) == name]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)

    assert tree.dump(stop) > 0
    tree.assert_goes_on()


def test_criu_that_lost_its_starter_is_waited_for(tree: Tree) -> None:
    left: list[ProcessId] = []

    def lose() -> None:
        found = ProcessId.of(tree.the("criu"))
        assert found is not None
        left.append(found)
        os.kill(tree.the("ckpt-box"), signal.SIGKILL)

    with pytest.raises(DumpFailed, match="killed"):
        tree.dump(lose)
    assert not left[0].is_alive(), "a failure is told only when nobody holds the tree"
    tree.assert_goes_on()


def test_criu_killed_while_it_holds_the_tree_lets_it_go(tree: Tree) -> None:
    with pytest.raises(DumpFailed, match="criu was killed"):
        tree.dump(lambda: os.kill(tree.the("criu"), signal.SIGKILL))
    tree.assert_goes_on()


def test_tracer_killed_fails_the_dump_and_lets_the_tree_go(tree: Tree) -> None:
    with pytest.raises(DumpFailed, match="killed"):
        tree.dump(lambda: os.kill(tree.the("ckpt-tracer"), signal.SIGKILL))
    tree.assert_goes_on()


def test_tracer_outlives_criu_and_traces_for_it(tree: Tree) -> None:
    seen = {}

    def look() -> None:
        tracer, criu = tree.the("ckpt-tracer"), tree.the("criu")
        seen["tracers"] = {status_lines(pid)["TracerPid"] for pid in descendants(
            tree.box.host_pid(ROOT_PID) or 0)}
        seen["parent"] = status_lines(criu)["PPid"]
        seen["tracer"] = str(tracer)
        seen["oom"] = [Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
                       for pid in (tracer, criu)]

    before = oom_scores(tree)
    assert tree.dump(look) > 0
    assert seen["tracers"] == {seen["tracer"]}
    assert seen["parent"] == seen["tracer"]
    spared = subprocess.run(["sh", "-c", "echo -1000 > /proc/self/oom_score_adj"], check=False,
                            capture_output=True).returncode == 0
    assert seen["oom"] == (["-1000"] if spared else oom_scores(tree)[:1]) * 2
    assert oom_scores(tree) == before


HANGS = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.prctl(1, signal.SIGKILL)  # it ends with this one
    time.sleep(1000)
if "traces" in sys.argv:
    assert libc.ptrace(0x4206, child, None, None) == 0  # PTRACE_SEIZE
print(child, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("does", ["traces", "waits"])
def test_criu_that_hangs_is_killed_only_where_it_traces_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    monkeypatch.setattr(holders_module, "STILL_TOLD_AFTER_S", 0.0)
    monkeypatch.setattr(holders_module, "GIVEN_UP_AFTER_S", 0.5)
    with subprocess.Popen(["criu", "-c", HANGS, str(tmp_path), does], text=True,
                          executable=sys.executable, stdout=subprocess.PIPE) as criu:
        assert criu.stdout is not None
        child = ProcessId.of(int(criu.stdout.readline()))
        assert child is not None
        told: list[str] = []
        watch, deadline = Watch(str(tmp_path), tell=told.append), time.monotonic() + (
            2 if does == "traces" else MOST_S)
        while criu.poll() is None and time.monotonic() < deadline:
            watch.look()
            time.sleep(0.02)
        assert any("has not moved" in sentence for sentence in told)
        assert (criu.poll() is None) is (does == "traces")
        criu.kill()


def test_killed_criu_leaves_no_child_behind(tmp_path: Path) -> None:
    # As criu's own, with which it tries what the system can do: it sleeps until told.
    command = 'sleep 1000 >/dev/null & echo $!; kill -9 $$'
    tracer = subprocess.run(
        ["ckpt-tracer", "sh", "-c", command], executable=native_path("ckpt-box"), text=True,
        env={**os.environ, "CKPT_CRIU_SHIM": str(native_path("criushim.so"))},
        stdout=subprocess.PIPE, timeout=60, check=False)
    assert tracer.returncode == 128 + signal.SIGKILL
    child = ProcessId.of(int(tracer.stdout))
    assert child is None or child.is_ending()


def oom_scores(tree: Tree) -> list[str]:
    return [Path(f"/proc/{pid}/oom_score_adj").read_text().strip()
            for pid in descendants(tree.box.host_pid(ROOT_PID) or 0)]


def test_restore_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    stand_in = tmp_path / "criu"
    stand_in.write_text('#!/bin/sh\nsleep 1000; : "$@"\n')
    stand_in.chmod(0o755)
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(RestoreFailed, match=r"within 0 s"):
        Criu(stand_in, MODE, tmp_path / "ckpt-notify").restore(images, list, deadline_s=0.2)
    assert holders(str(images)) == []


def test_criu_that_stands_still_is_told_with_its_state_and_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders_module, "STILL_TOLD_AFTER_S", 0.0)
    still = subprocess.Popen(["criu", "-c", "import time; time.sleep(1000)", str(tmp_path)],
                             executable=sys.executable)
    told: list[str] = []
    try:
        watch = Watch(str(tmp_path), tell=told.append)
        while not any("criu has not moved" in text for text in told):
            watch.look()
        assert still.poll() is None
    finally:
        still.kill()
        still.wait()


# -- boxes that nobody fills --------------------------------------------------------------


def init(runtime: Path, deadline_s: int) -> ProcessId:
    argv = [str(native_path("ckpt-box")), "init", "--runtime", str(runtime),
            "--empty-deadline", str(deadline_s)]
    done = subprocess.run([*argv, *(["--user"] if MODE == "rootless" else [])], check=True,
                          capture_output=True, text=True)
    found = ProcessId.of(int(done.stdout))
    assert found is not None
    return found


def wait_for_end(process: ProcessId) -> None:
    deadline = time.monotonic() + MOST_S
    while process.is_alive():
        assert time.monotonic() < deadline, "the empty box is still there"
        time.sleep(0.02)


def test_box_that_nobody_fills_ends_by_itself(tmp_path: Path) -> None:
    wait_for_end(init(tmp_path, 1))


def test_box_with_somebody_at_work_in_it_waits_for_him(tmp_path: Path) -> None:
    box = init(tmp_path, 5)
    worker = subprocess.Popen([str(native_path("ckpt-box")), "enter", str(box.pid), "--",
                               sys.executable, "-c", "import time; time.sleep(7)"])
    assert worker.wait() == 0, "it was not ended with its box"
    wait_for_end(box)


def test_box_with_a_root_outlives_the_deadline(tmp_path: Path) -> None:
    box = NamespaceBox(native_path("ckpt-box"), tmp_path, MODE, init(tmp_path, 5))
    try:
        box.start_root([sys.executable, "-c", "import time; time.sleep(1000)"], os.environ, "/")
        wait_for_end(init(tmp_path, 6))
        assert box.init.is_alive()
    finally:
        box.stop()
