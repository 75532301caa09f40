"""Ending a box: nothing of it runs afterwards, and its ports are free."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt.agent.kernel import free_alias, open_alias
from jupyter_ckpt.box import Box, NamespaceBox, OpenBox
from jupyter_ckpt.box.contract import identities, kill_and_wait
from jupyter_ckpt.errors import LaunchFailed
from jupyter_ckpt.native_build import native_path
from jupyter_ckpt.procfs import ProcessId, children_of_all, stat_fields
from jupyter_ckpt.record import RECORD_NAME, Record, write_record

HEADLESS = """
import ctypes, socket, threading, time
listener = socket.create_server(("127.0.0.1", 0))
def go_on():
    time.sleep(0.1)
    while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    print(listener.getsockname()[1], flush=True)
    time.sleep(600)
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall(60 if __import__("platform").machine() == "x86_64" else 93, 0)
"""
"""Its first thread ends while another holds a port: every killed process is so for a moment."""


@pytest.fixture
def headless() -> Iterator[tuple[int, int]]:
    """Give (pid, port) of a process without its first thread."""
    with subprocess.Popen([sys.executable, "-c", HEADLESS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def test_process_whose_first_thread_has_ended_lives(headless: tuple[int, int]) -> None:
    pid, port = headless
    fields = stat_fields(pid)
    assert fields is not None
    assert fields[0] == "Z"
    process = ProcessId(pid, int(fields[19]))
    assert identities(process) == [process]
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_ports_are_free_once_a_box_is_ended(headless: tuple[int, int]) -> None:
    pid, port = headless
    process = ProcessId.of(pid)
    kill_and_wait(identities(process))
    assert identities(process) == []
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", port))


# -- whose process is it ------------------------------------------------------------------------
@pytest.fixture
def stranger() -> Iterator[ProcessId]:
    """A process of somebody else, which has got the pid of one that has ended."""
    with subprocess.Popen(["sleep", "600"]) as process:
        found = ProcessId.of(process.pid)
        assert found is not None
        yield found
        process.kill()


@pytest.mark.parametrize("kind", ["namespaces", "open"])
def test_process_that_has_got_the_pid_of_one_of_the_box_goes_on(
    kind: str, stranger: ProcessId, tmp_path: Path
) -> None:
    ended = ProcessId(stranger.pid, stranger.start_time - 1)
    box: Box = OpenBox(tmp_path, tmp_path, str(tmp_path / "alias"), ended)
    if kind == "namespaces":
        box = NamespaceBox(tmp_path, tmp_path, "root", ended)
    box.stop(ended)
    assert stranger.is_alive()


# -- without namespaces -----------------------------------------------------------------------
@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    return folder


@pytest.fixture
def open_box(runtime: Path, tmp_path: Path) -> Iterator[OpenBox]:
    box = OpenBox.create(native_path("ckpt-box"), runtime, str(tmp_path / "alias"))
    box.start_root(["sh", "-c", "sleep 600 & setsid sleep 600 & sleep 600"], os.environ, "/")
    yield box
    box.stop()


def kernel_in(box: OpenBox) -> ProcessId:
    assert box.root is not None
    while not (children := children_of_all().get(box.root.pid, [])):
        assert box.root.is_alive()
    found = ProcessId.of(children[0])
    assert found is not None
    while len(identities(found)) < 4:
        assert found.is_alive()
    return found


def test_kernel_whose_dump_root_was_killed_is_ended_with_its_children(open_box: OpenBox) -> None:
    kernel = kernel_in(open_box)
    tree = identities(kernel)
    assert open_box.root is not None
    os.kill(open_box.root.pid, signal.SIGKILL)
    open_box.stop(kernel)
    assert not any(each.is_alive() for each in tree)


def test_children_of_a_kernel_that_ends_by_itself_end_with_it(open_box: OpenBox) -> None:
    kernel = kernel_in(open_box)
    tree = identities(open_box.root)
    os.kill(kernel.pid, signal.SIGKILL)
    assert open_box.root is not None
    while open_box.root.is_alive():
        pass
    assert not any(each.is_alive() for each in tree)


def living(folder: Path) -> None:
    """Make `folder` that of a living kernel."""
    own = ProcessId.of(os.getpid())
    folder.mkdir()
    record = Record(folder.name, mode="caps", kernel=own, root=own)
    write_record(folder, record)


def test_path_of_a_living_copy_is_not_taken_from_it(runtime: Path, tmp_path: Path) -> None:
    copy, alias = tmp_path / "copy", tmp_path / "alias"
    living(copy)
    alias.symlink_to(copy)
    with pytest.raises(LaunchFailed, match="belongs to another kernel"):
        OpenBox.create(native_path("ckpt-box"), runtime, str(alias))
    OpenBox(native_path("ckpt-box"), runtime, str(alias), None).stop()
    assert alias.readlink() == copy
    (copy / RECORD_NAME).unlink()  # it has ended
    box = OpenBox.create(native_path("ckpt-box"), runtime, str(alias))
    assert alias.readlink() == runtime
    box.stop()
    assert not alias.is_symlink()


def test_new_kernel_gets_another_path_where_a_living_copy_has_its_own(
    runtime: Path, tmp_path: Path
) -> None:
    own = Path(open_alias(runtime.name))
    assert free_alias(runtime) == str(own)
    living(tmp_path / "copy")
    own.symlink_to(tmp_path / "copy")
    try:
        assert free_alias(runtime) == f"{own}-1"
    finally:
        own.unlink()
