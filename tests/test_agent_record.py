"""The record is written by the one agent that has the place beside the kernel."""

from __future__ import annotations

import ast
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from jupyter_ckpt import agent as package
from jupyter_ckpt.agent.core import Agent
from jupyter_ckpt.agent.kernel import Kernel
from jupyter_ckpt.agent.launch import make_box
from jupyter_ckpt.agent.recordfile import RecordFile
from jupyter_ckpt.agent.tools import Tools
from jupyter_ckpt.agent_place import Place, lock_path, take
from jupyter_ckpt.box import Box
from jupyter_ckpt.errors import AgentUnreachable
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, read_record, write_record

ID = "kernel-0001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / ID
    folder.mkdir()
    return folder


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


class Post:
    """An agent that has taken its place and a kernel, which only sleeps."""

    def __init__(self, folder: Path, pid: int) -> None:
        place = take(folder)
        assert place is not None
        self.place: Place = place
        self.ended = threading.Event()
        self.agent = Agent(Tools(folder.parent, folder.parent / "store", folder.parent), folder,
                           self.ended.set, place.is_ours)
        own = ProcessId.of(pid)
        record = Record(ID, root=own, kernel=own)
        self.kernel = Kernel(record, cast(Box, None), folder)
        self.agent.take(self.kernel)


def lose_place(folder: Path) -> Place:
    """Replace the lock file by one that another agent holds."""
    lock_path(folder).unlink()
    place = take(folder)
    assert place is not None
    return place


def test_agent_whose_lock_file_was_replaced_writes_nothing_any_more(
    folder: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    post = Post(folder, sleeper.pid)
    assert post.agent.note(post.kernel, notebook="/a/b.ipynb")
    assert read_record(folder).notebook == "/a/b.ipynb"
    other = lose_place(folder)
    theirs = Record(ID, notebook="/of/the/other.ipynb")
    write_record(folder, theirs)

    agent = post.agent
    for write in (lambda: agent.note(post.kernel, schedule=None),
                  lambda: agent.note_session({"notebook": "/x.ipynb"}),
                  lambda: agent.take(post.kernel),
                  lambda: agent.record_file.write(post.kernel.record),
                  lambda: make_box(agent.tools, agent.record_file, "root"),
                  agent.shutdown):
        with pytest.raises(AgentUnreachable, match="replaced by another"):
            write()
    agent.record_file.remove()
    sleeper.kill()
    sleeper.wait()
    for thread in threading.enumerate():
        if thread.name == "watch":
            thread.join(10)
    assert read_record(folder) == theirs
    assert post.ended.is_set()
    post.place.leave()
    assert other.is_ours(), "leaving takes nothing from the other"
    other.leave()
    assert not lock_path(folder).exists()


def test_note_about_a_kernel_that_was_replaced_is_not_written(
    folder: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    post = Post(folder, sleeper.pid)
    old, own = post.kernel, ProcessId.of(os.getpid())
    new = Kernel(Record(ID, kernel=own, epoch=2), cast(Box, None), folder)
    assert post.agent.let_go(old)
    post.agent.take(new)
    assert not post.agent.let_go(old)
    assert not post.agent.note(old, automatic={"failures": 7})
    assert (read_record(folder).epoch, read_record(folder).automatic) == (2, None)
    post.agent.let_go(new)
    post.place.leave()


def test_only_the_record_file_writes_and_removes_records() -> None:
    found = set()
    for path in Path(next(iter(package.__path__))).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Name) and node.id in ("write_record", "RECORD_NAME"):
                found.add(path.name)
    assert found == {"recordfile.py"}


def test_record_file_without_a_place_to_lose_writes(folder: Path) -> None:
    file = RecordFile(folder)
    file.write(Record(ID))
    assert file.read() == Record(ID)
    file.remove()
    assert not (folder / "record.json").exists()
