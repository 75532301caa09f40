"""Connections that end by reset leave no TIME_WAIT behind."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from jupyter_ckpt.box.hangup import reset_on_end

PROGRAM = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.sendall(b"hello")
time.sleep(600)
"""


def states_of(port: int) -> set[str]:
    """Return the states of the system's TCP sockets with this local port."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return {row[3] for row in rows if int(row[1].rsplit(":", 1)[1], 16) == port}


@pytest.mark.parametrize(("reset", "left"), [(False, {"06"}), (True, set())])
def test_killed_process_leaves_its_port_free_only_after_reset(
    reset: bool, left: set[str]
) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert client.recv(5) == b"hello"
        if reset:
            assert reset_on_end([process.pid]) == 2
            client.sendall(b"still there")
        process.kill()
        process.wait()
        process.stdout.close()
        if reset:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
    assert states_of(port) == left


def test_process_that_is_gone_is_passed_over() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert reset_on_end([process.pid]) == 0
