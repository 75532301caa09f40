"""A kernel that is stopped (SIGSTOP) is refused at once, and is as good as ever afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.agent.kernel_link import KernelLink
from jupyter_ckpt.engine.preflight import findings
from jupyter_ckpt.procfs import is_stopped
from jupyter_ckpt.protocol import KERNEL_SOCKET_NAME
from jupyter_ckpt.record import read_record


@pytest.fixture
def shell() -> Iterator[Shell]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as found:
        yield found


def test_stopped_kernel_is_refused_and_saved_once_it_goes_on(shell: Shell) -> None:
    started = shell.start()
    talker = Talker(started["connection_file"])
    talker.run("word = 'kept'")
    kernel = read_record(
        shell.home / "runtime" / "ckpt" / started["kernel_id"]).kernel
    assert kernel is not None
    os.kill(kernel.pid, signal.SIGSTOP)

    code, error = shell.refused("save", started["kernel_id"])

    assert (code, error["id"]) == (5, "cannot-be-saved")
    assert "the kernel itself is stopped (SIGSTOP)" in error["message"]
    assert f"kill -CONT {kernel.pid}" in error["hint"]
    assert is_stopped(kernel.pid), "it was not touched"
    os.kill(kernel.pid, signal.SIGCONT)
    saved = shell.ckpt("save", started["kernel_id"])
    assert saved["warnings"] == []
    assert talker.run("print(word)") == "kept"
    talker.close()


def test_only_the_kernel_itself_has_to_run() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            assert not is_stopped(process.pid)
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            assert is_stopped(process.pid)
            assert findings(process.pid, "root", 1 << 30) == []
            found = findings(process.pid, "root", 1 << 30, kernel_pid=process.pid)
            assert [each.kind for each in found] == ["stopped"]
        finally:
            process.kill()


def test_nothing_is_asked_of_a_kernel_that_is_stopped(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as kernel:
        kernel.bind(str(tmp_path / KERNEL_SOCKET_NAME))
        kernel.listen()
        kernel.setblocking(False)
        assert KernelLink(tmp_path, is_stopped=lambda: True).ask("ping", 60.0) is None
        with pytest.raises(BlockingIOError):
            kernel.accept()
