"""The agent's line to the kernel: what it makes of a kernel that is only just starting."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from jupyter_ckpt.agent import kernel_link
from jupyter_ckpt.agent.kernel_link import KernelLink
from jupyter_ckpt.engine.unixpeers import unix_sockets
from jupyter_ckpt.protocol import KERNEL_SOCKET_NAME


def test_a_socket_that_is_there_and_does_not_listen_yet_is_not_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_link, "PING_TIMEOUT_S", 60.0)
    link = KernelLink(tmp_path)
    assert not link.is_up()
    with socket.socket(socket.AF_UNIX) as kernel:
        kernel.bind(str(tmp_path / KERNEL_SOCKET_NAME))
        assert not link.is_up()

        kernel.listen()
        thread = threading.Thread(target=_answer_once, args=(kernel,))
        thread.start()
        assert link.is_up()
        thread.join()


def test_question_that_is_not_accepted_stays_open_until_it_is(tmp_path: Path) -> None:
    """Closed, it would wait in the kernel's socket as what CRIU cannot save."""
    link = KernelLink(tmp_path)
    with socket.socket(socket.AF_UNIX) as kernel:
        kernel.bind(str(tmp_path / KERNEL_SOCKET_NAME))
        kernel.listen()
        inode = os.fstat(kernel.fileno()).st_ino
        assert link.ask("ping", 0.05) is None
        assert link.ask("status", 0.05) is None
        waiting = unix_sockets()[inode].waiting
        assert len(waiting) == 2
        assert 0 not in waiting

        connection, _ = kernel.accept()
        with connection:
            link.settle()
            assert json.loads(connection.recv(1 << 16))["op"] == "ping"
            assert connection.recv(1) == b"", "accepted, it would be a connection to outside"
        assert unix_sockets()[inode].waiting == waiting[1:]


def _answer_once(kernel: socket.socket) -> None:
    connection, _ = kernel.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(json.dumps({"ok": True}).encode())
