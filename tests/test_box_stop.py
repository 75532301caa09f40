"""Ending a box: nothing of it runs afterwards, and its ports are free."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jupyter_ckpt.box.contract import identities, kill_and_wait
from jupyter_ckpt.procfs import ProcessId, stat_fields

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
    assert identities(pid) == [ProcessId(pid, int(fields[19]))]
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_ports_are_free_once_a_box_is_ended(headless: tuple[int, int]) -> None:
    pid, port = headless
    kill_and_wait(identities(pid))
    assert identities(pid) == []
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", port))
