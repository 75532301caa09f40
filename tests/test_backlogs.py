"""Connections that nobody has accepted yet: told from those that CRIU saves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_ckpt.engine.backlogs import unaccepted_tcp, unaccepted_unix
from jupyter_ckpt.engine.preflight import check_can_be_saved
from jupyter_ckpt.engine.unixpeers import unix_sockets
from jupyter_ckpt.errors import CannotBeSaved

LISTENING = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
sys.stdin.readline()
held = listening.accept()
sys.stdin.readline()
"""


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "l"))
        sock.listen()
        yield sock


def _found(*inside: socket.socket) -> list[tuple[str, int, str]]:
    return list(unaccepted_unix(unix_sockets(), {_inode(sock) for sock in inside}))


def test_connection_to_outside_counts_before_it_is_accepted(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.getsockname())
        assert _found(client) == [
            ("unix-connection", _inode(client), listener.getsockname())]
        accepted, _ = listener.accept()
        with accepted:
            assert _found(client) == []  # seen as a connection by its peer


def test_connection_within_the_tree_counts_once_it_has_data(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.getsockname())
        assert _found(client, listener) == []
        client.send(b"x")
        assert _found(client, listener) == [
            ("unix-backlog", _inode(listener), listener.getsockname())]


def test_connection_from_outside_counts_once_it_is_closed(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.getsockname())
        client.send(b"x")
        assert _found(listener) == []
    assert _found(listener) == [("unix-backlog", _inode(listener), listener.getsockname())]
    assert _found() == []


@pytest.mark.parametrize(("family", "address"), [
    (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connection_to_a_port_counts_until_it_is_accepted(family: int, address: str) -> None:
    with socket.create_server((address, 0), family=family) as listening:
        place, port = listening.getsockname()[:2], str(listening.getsockname()[1])

        def found(*inside: socket.socket) -> list[tuple[str, int, str]]:
            return list(unaccepted_tcp("/proc/self", {_inode(sock) for sock in inside}))

        assert found(listening) == []
        with socket.create_connection(place) as client:
            assert found(listening) == [("tcp-backlog", _inode(listening), port)]
            assert found(client) == []
            accepted, _ = listening.accept()
            with accepted:
                assert found(listening, client, accepted) == []


@contextmanager
def _program_with_a_waiting_connection() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen([sys.executable, "-c", LISTENING], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        with socket.create_connection(("127.0.0.1", int(port))):
            yield process, port
        process.kill()


def test_connection_that_is_never_accepted_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_ckpt.engine.preflight.PASSING_S", 0.2)
    with (_program_with_a_waiting_connection() as (process, port),
          pytest.raises(CannotBeSaved, match=f"connection to its port {port}") as caught):
        check_can_be_saved(process.pid, "root", 1 << 30)
    assert "Save again in a moment" in caught.value.hint


def test_connection_that_is_accepted_in_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jupyter_ckpt.engine.preflight.PASSING_S", 60.0)
    with _program_with_a_waiting_connection() as (process, _):
        assert process.stdin is not None
        looks: list[float] = []

        def accept_later(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()

        monkeypatch.setattr("jupyter_ckpt.engine.preflight.time.sleep", accept_later)
        check_can_be_saved(process.pid, "root", 1 << 30)
        assert len(looks) >= 3
