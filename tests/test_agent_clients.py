"""The agent's socket when clients are slow or threads are scarce."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jupyter_harness import wait_until

from jupyter_ckpt.agent import server as module
from jupyter_ckpt.agent.core import Agent
from jupyter_ckpt.agent.deadline import TimedStream
from jupyter_ckpt.agent.server import AgentServer
from jupyter_ckpt.agent.tools import Tools
from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.errors import AgentBusy, RequestTooSlow
from jupyter_ckpt.protocol import SOCKET_NAME


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AgentServer]:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    agent = Agent(Tools(tmp_path, tmp_path / "store", tmp_path), folder, lambda: None)
    server = AgentServer(folder, agent)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def answer_to(server: AgentServer, data: bytes) -> tuple[int, Any]:
    """Send `data`, and no more; return (status, JSON) of the answer."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(60)
        line.connect(str(server.routes.agent.folder / SOCKET_NAME))
        line.sendall(data)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("data", [
    b"", b"GET /sta", b"GET /status HTTP/1.1\r\nHost: a\r\n",
    b"PUT /checkpoints/request-0001 HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"])
def test_request_that_does_not_end_is_answered_408(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.3)
    status, body = answer_to(server, data)
    assert status == 408
    assert body["error"]["id"] == "too-slow"
    assert body["error"]["message"].endswith(".")


def test_request_in_time_is_answered(server: AgentServer) -> None:
    status, body = answer_to(server, b"GET /status HTTP/1.1\r\n\r\n")
    assert (status, body["state"]) == (200, "empty")


def test_bytes_that_trickle_do_not_put_the_end_off() -> None:
    now = iter(range(100))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = TimedStream(ours, 5, clock=lambda: float(next(now)))
        theirs.sendall(b"x" * 100)
        with pytest.raises(RequestTooSlow):
            b"".join(iter(lambda: stream.read(1), None))


def test_connection_without_a_thread_gives_its_slot_back(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuse)
        for _ in range(module.MAX_CONNECTIONS + 1):
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(server.routes.agent.folder / SOCKET_NAME))
                assert line.recv(1) == b""
    assert server.lines.await_none(0)
    assert answer_to(server, b"GET /status HTTP/1.1\r\n\r\n")[0] == 200


@pytest.fixture
def many(server: AgentServer) -> Iterator[list[socket.socket]]:
    """Connections to the agent, as many as it takes."""
    lines = []
    for _ in range(module.MAX_CONNECTIONS):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(60)
        line.connect(str(server.routes.agent.folder / SOCKET_NAME))
        lines.append(line)
    yield lines
    for line in lines:
        line.close()


def test_connections_that_say_nothing_keep_nobody_out(
    server: AgentServer, many: list[socket.socket]
) -> None:
    """The one that has waited longest makes way, and is told."""
    client = AgentClient(server.routes.agent.folder)
    for _ in range(3):
        assert client.status()["state"] == "empty"
    answer = b"".join(iter(lambda: many[0].recv(65536), b""))
    assert answer.split()[1] == b"408"
    assert b"too-slow" in answer
    many[-1].sendall(b"GET /status HTTP/1.1\r\n\r\n")
    assert many[-1].recv(65536).split()[1] == b"200", "the youngest still has its place"


def test_agent_with_all_it_takes_at_work_says_so_and_is_not_taken_for_hung(
    server: AgentServer, many: list[socket.socket]
) -> None:
    for line in many:
        line.sendall(b"GET /events HTTP/1.1\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
    client = AgentClient(server.routes.agent.folder)
    with pytest.raises(AgentBusy):
        client.status()
    assert client.answers()
    many[7].close()

    def asked() -> bool:
        with suppress(AgentBusy):
            return bool(client.status())
        return False

    assert wait_until(asked)
