"""Servers and agents that have many files open: descriptors above select(2)'s 1023."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_ckpt.agent.ending import await_end
from jupyter_ckpt.agent.psi import PressureWait
from jupyter_ckpt.engine.notifications import SOCKET_NAME, Notifications
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record
from jupyter_ckpt.server.attached import AttachedProcess

FIRST_UNFIT = 1024


@pytest.fixture(autouse=True)
def many_open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FIRST_UNFIT + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    opened = [os.open(os.devnull, os.O_RDONLY)]
    while opened[-1] < FIRST_UNFIT:
        opened.append(os.dup(opened[0]))
    yield
    for handle in opened:
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def sleeping() -> Iterator[tuple[subprocess.Popen[bytes], ProcessId]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        identity = ProcessId.of(process.pid)
        assert identity is not None
        try:
            yield process, identity
        finally:
            process.kill()


def test_kernel_is_polled_and_waited_for() -> None:
    with sleeping() as (process, identity):
        attached = AttachedProcess(identity)
        assert attached._fd >= FIRST_UNFIT
        assert attached.poll() is None
        assert attached.wait(0) is None
        process.send_signal(signal.SIGKILL)
        assert attached.wait(30) is not None
        assert attached.poll() is not None


def test_end_of_a_kernel_is_awaited() -> None:
    with sleeping() as (process, identity):
        process.kill()
        await_end(Record("some-kernel", kernel=identity))


def test_pressure_is_waited_for() -> None:
    wait = PressureWait()
    wait.wake()
    wait.wait(60, watching=False)
    wait.close()


def test_criu_is_answered(tmp_path: Path) -> None:
    script = ("import socket; s = socket.socket(socket.AF_UNIX); s.connect('%s'); s.send(b'x');"
              "assert s.recv(1) == b'k'" % (tmp_path / SOCKET_NAME))
    worked: list[int] = []
    watch: Any = SimpleNamespace(look=lambda may_rest: None)
    with Notifications(tmp_path) as notifications:
        with subprocess.Popen(["/usr/bin/env", "python3", "-c", script]) as criu:
            assert notifications.serve(criu, lambda: worked.append(1), lambda: 0, watch) is None
        assert criu.returncode == 0
    assert worked == [1]
