"""Whatever arrives on the agent's socket, agent and kernel go on."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_harness import wait_until
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.errors import (
    CheckpointError,
    JobNotFound,
    ProtocolError,
    UsageError,
    error_classes,
    from_dict,
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[tuple[Shell, str, Talker]]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        started = shell.start()
        talker = Talker(started["connection_file"])
        yield shell, started["kernel_id"], talker
        talker.close()


@pytest.fixture
def folder(kernel: tuple[Shell, str, Talker]) -> Path:
    return kernel[0].home / "runtime" / "ckpt" / kernel[1]


@pytest.fixture
def agent(folder: Path) -> AgentClient:
    return AgentClient(folder)


def raw(folder: Path, data: bytes, end: bool = True) -> bytes:
    """Send bytes to the agent and return all it answers."""
    handle = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(20)
            line.connect(f"/proc/self/fd/{handle}/agent.sock")
            line.sendall(data)
            if end:
                line.shutdown(socket.SHUT_WR)
            parts = []
            while part := line.recv(65536):
                parts.append(part)
            return b"".join(parts)
    except ConnectionError:
        return b""
    finally:
        os.close(handle)


def put(path: str, body: bytes, length: object = None) -> bytes:
    size = len(body) if length is None else length
    return f"PUT {path} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode() + body


BAD = {
    "no HTTP at all": b"\x00\x01\x02hello\r\n\r\n",
    "half a request line": b"PUT /checkp",
    "unknown verb": b"BREW /status HTTP/1.1\r\n\r\n",
    "body that is no JSON": put("/checkpoints/request-0001", b"{nope"),
    "body that is no object": put("/checkpoints/request-0002", b"[1, 2]"),
    "deeply nested body": put("/checkpoints/request-0003", b"[" * 200_000),
    "negative length": put("/checkpoints/request-0004", b"{}", -5),
    "length in letters": put("/checkpoints/request-0005", b"{}", "many"),
    "length beyond the limit": put("/checkpoints/request-0006", b"{}", 10**12),
    "body shorter than said": put("/checkpoints/request-0007", b"{}", 500),
    "request id that leaves its place": put("/checkpoints/..%2f..%2fetc", b"{}"),
    "request id too short": put("/checkpoints/x", b"{}"),
    "unknown path": put("/nothing/request-0008", b"{}"),
    "endless header": b"GET /status HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "chunked body": b"PUT /checkpoints/request-0009 HTTP/1.1\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
    "signal that is no number": b"POST /signal HTTP/1.1\r\nContent-Length: 15\r\n\r\n"
                                b'{"signal": "9"}',
    "signal out of range": b"POST /signal HTTP/1.1\r\nContent-Length: 15\r\n\r\n"
                           b'{"signal": 900}',
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_bytes_get_a_4xx_and_end_nothing(
    data: bytes, folder: Path, agent: AgentClient, kernel: tuple[Shell, str, Talker]
) -> None:
    answer = raw(folder, data)
    if answer:
        status = int(answer.split(b" ")[1])
        assert 400 <= status < 500, answer
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["message"].endswith(".")
    assert agent.status()["state"] == "running"
    assert kernel[2].run("print('alive')") == "alive"


def test_slow_client_holds_nobody_up(folder: Path, agent: AgentClient) -> None:
    handle = os.open(folder, os.O_PATH)
    lines = []
    for _ in range(20):
        line = socket.socket(socket.AF_UNIX)
        line.connect(f"/proc/self/fd/{handle}/agent.sock")
        line.sendall(b"PUT /checkpoints/slow")
        lines.append(line)
    assert agent.status()["state"] == "running"
    for line in lines:
        line.close()
    os.close(handle)


def test_same_request_id_saves_once_and_answers_the_same(
    agent: AgentClient, kernel: tuple[Shell, str, Talker]
) -> None:
    before = len(kernel[0].ckpt("list"))
    for _ in range(3):
        agent.put("checkpoints", "the-same-request", {})
    first = agent.wait("checkpoints", "the-same-request").result
    agent.put("checkpoints", "the-same-request", {"name": "another body"})
    assert agent.wait("checkpoints", "the-same-request").result == first
    assert len(kernel[0].ckpt("list")) == before + 1


def test_two_saves_at_once_both_succeed_and_the_second_says_it_waits(agent: AgentClient) -> None:
    agent.put("checkpoints", "first-of-two", {})
    second = agent.put("checkpoints", "second-of-two", {})
    assert second.phase or second.state != "queued"
    ids = {(agent.wait("checkpoints", name).result or {})["id"]
           for name in ("first-of-two", "second-of-two")}
    assert len(ids) == 2


def test_state_says_saving_and_frozen_only_while_the_session_stands_still(
        agent: AgentClient) -> None:
    agent.put("checkpoints", "state-of-a-save", {})
    told: list[tuple[str, str]] = []
    while not (job := agent.job("checkpoints", "state-of-a-save")).finished:
        told.append((job.state, agent.status()["state"]))
    assert job.error is None
    assert agent.status()["state"] == "running"
    assert "saving" in {state for _, state in told}
    after = [state for stage, state in told if stage in ("storing", "verifying")]
    assert "frozen" not in after


def test_queued_save_can_be_cancelled(agent: AgentClient) -> None:
    agent.put("checkpoints", "running-one", {})
    agent.put("checkpoints", "queued-one", {})
    try:
        assert agent.cancel("checkpoints", "queued-one").state in ("failed", "done")
    except UsageError:  # it has begun by now
        assert agent.wait("checkpoints", "queued-one").state == "done"
    agent.wait("checkpoints", "running-one")


@pytest.mark.parametrize(("kind", "body", "named"), [
    ("checkpoints", {"note": 5}, "note"),
    ("checkpoints", {"name": ["a"]}, "name"),
    ("checkpoints", {"pin": "no"}, "pin"),
    ("checkpoints", {"document": "x"}, "document"),
    ("checkpoints", {"document": {"path": 5}}, "document"),
    ("checkpoints", {"epoch": "x"}, "epoch"),
    ("checkpoints", {"store": 1}, "store"),
    ("restores", {}, "checkpoint"),
    ("restores", {"checkpoint": 1}, "checkpoint"),
    ("restores", {"checkpoint": "abcd", "connection": {"shell_port": "1"}}, "connection"),
    ("launches", {"cmd": "true", "env": {}}, "cmd"),
    ("launches", {"cmd": ["true"]}, "env")])
def test_act_with_a_field_of_the_wrong_type_is_refused_before_anything_is_done(
    agent: AgentClient, kind: str, body: dict[str, Any], named: str
) -> None:
    with pytest.raises(ProtocolError, match=f"'{named}'"):
        agent.put(kind, "of-a-wrong-type", body)
    with pytest.raises(JobNotFound):
        agent.job(kind, "of-a-wrong-type")


def test_unknown_request_is_not_found(agent: AgentClient) -> None:
    with pytest.raises(JobNotFound):
        agent.job("checkpoints", "never-asked-for")


def test_second_launch_into_a_living_kernel_is_refused(agent: AgentClient) -> None:
    agent.put("launches", "second-launch", {"cmd": ["true"], "env": {}})
    with pytest.raises(UsageError, match="running already"):
        agent.wait("launches", "second-launch")


def test_agent_with_a_kernel_is_not_dismissed(agent: AgentClient) -> None:
    with pytest.raises(UsageError):
        agent.request("POST", "/dismiss")


def test_session_with_wrong_types_is_refused(agent: AgentClient) -> None:
    with pytest.raises(ProtocolError):
        agent.note_session(session="not an object")


def test_socket_and_folder_are_private(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("agent.sock", "record.json", "kernel.log", "agent.log"):
        assert stat.S_IMODE((folder / name).stat().st_mode) & 0o077 == 0, name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_served(folder: Path, kernel: tuple[Shell, str, Talker]) -> None:
    """Even one who was handed a way to the socket: the peer's user id decides."""
    reader, writer = os.pipe()
    handle = os.open(folder, os.O_PATH)
    os.chmod(folder / "agent.sock", 0o666)
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"/proc/self/fd/{handle}/agent.sock")
                line.sendall(b"GET /status HTTP/1.1\r\n\r\n")
                answer = line.recv(100)
        except OSError as error:
            answer = repr(error).encode()[:50]
        os.write(writer, answer or b"closed")
        os._exit(0)
    os.waitpid(child, 0)
    os.chmod(folder / "agent.sock", 0o600)
    assert not os.read(reader, 200).startswith(b"HTTP")
    for each in (reader, writer, handle):
        os.close(each)


def test_errors_survive_the_trip() -> None:
    for cls in error_classes().values():
        again = from_dict(cls("What failed.", "What to do.", "/a/log").to_dict())
        assert (type(again), again.message, again.hint, again.log) == (
            cls, "What failed.", "What to do.", "/a/log")
    assert isinstance(from_dict({"id": "of-the-future", "code": 6}), CheckpointError)
    assert from_dict({"id": "of-the-future", "code": 6}).exit_code == 6


def test_questions_during_a_save_never_disturb_it(
    agent: AgentClient, kernel: tuple[Shell, str, Talker]
) -> None:
    """A question that reached the frozen kernel would be a connection CRIU refuses."""
    kernel[2].run("import os; big = os.urandom(100_000_000)")
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            agent.running()

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for number in range(3):
            agent.put("checkpoints", f"questioned-{number}", {})
            assert agent.wait("checkpoints", f"questioned-{number}").state == "done"
    finally:
        ended.set()
        for asker in askers:
            asker.join()
    wait_until(lambda: agent.running()["busy"] is False, what="it answers")
