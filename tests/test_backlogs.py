"""Connections that nobody has accepted yet: told from those that CRIU saves."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt.engine.backlogs import unaccepted_unix
from jupyter_ckpt.engine.unixpeers import unix_sockets


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
