"""The sockets of agent and kernel: requests, noise, slow and half ones."""

from __future__ import annotations

import json
import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from mutation import json_mutator, with_tokens
from target import Target

from jupyter_ckpt.agent.kernel_link import KernelLink
from jupyter_ckpt.agent.lines import Lines
from jupyter_ckpt.agent.server import AgentServer, Routes, _Handler
from jupyter_ckpt.agent.tools import Tools
from jupyter_ckpt.errors import KernelNotFound, StoreUnusable
from jupyter_ckpt.inkernel.link import Link
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.store import Store

logging.disable(logging.CRITICAL)


class NoStore(Tools):
    """Tools that have nothing to save to or to restore from."""

    def store(self) -> Store:
        raise StoreUnusable("There is no store.")


class NoKernel:
    """An agent that does nothing: what arrives at it was understood."""

    unfinished = None
    kernel = None
    acting = ""
    folder = Path("/nonexistent/no-kernel")
    tools = NoStore(folder.parent, folder, folder)

    def need_kernel(self) -> Any:
        raise KernelNotFound("No kernel is running.")

    def launch(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        return {"done": len(request)}

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        yield

    def nothing(self, *_: Any) -> None: ...

    shutdown = dismiss = note_session = check_place = nothing


def request(verb: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"{verb} {path} HTTP/1.1", f"Content-Length: {len(body)}",
             *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


REQUESTS = [
    request("GET", "/status"), request("GET", "/running"), request("GET", "/list"),
    request("PUT", "/checkpoints/request-0001", b'{"name": "x", "trigger": "manual"}'),
    request("GET", "/checkpoints/request-0001"), request("DELETE", "/restores/request-0001"),
    request("PUT", "/schedule", b'{"every": "10m"}'), request("POST", "/cells"),
    request("POST", "/signal", b'{"signal": 2}'), request("POST", "/session", b'{"notebook": "x"}'),
    request("PUT", "/launches/request-0002", b'{"cmd": ["true"], "env": {}}', Host="agent"),
]
HTTP_WORDS = [b"GET ", b"PUT ", b"POST ", b"/", b"/checkpoints/", b" HTTP/1.1", b"\r\n",
              b"\r\n\r\n",
              b"Content-Length: ", b"99999999999999999999", b"-1", b"0x10", b"Transfer-Encoding: x",
              b"Expect: 100-continue\r\n", b"Connection: keep-alive\r\n", b"\0", b"HTTP/9.9",
              b"HTTP/0.9", b"%2e%2e/", "é".encode(), b"A: " + b"a" * 70_000, b"{", b"[" * 2000,
              b'{"signal": 9e999}', b"a: b\r\n" * 120, "\u0661".encode(), b"\xb2"]
http_mutator = with_tokens(HTTP_WORDS)


class AgentHttp(Target):
    """Bytes of one connection to the agent, read by its handler."""

    name = "agent-http"
    weight = 1
    mutate = staticmethod(http_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = _Server()

    def seeds(self) -> list[bytes]:
        return REQUESTS

    def run(self, data: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.settimeout(2)
            for each in (ours, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            assert self.server.lines.admit(theirs)
            _Handler(theirs, "", self.server)  # type: ignore[arg-type]
            self.server.lines.leave(theirs)
            theirs.shutdown(socket.SHUT_RDWR)
            ours.settimeout(2)
            _check_answer(_read(ours))


class _Server:
    def __init__(self) -> None:
        self.routes = Routes(NoKernel())  # type: ignore[arg-type]
        self.lines = Lines(1)


class RequestBody(Target):
    """A well-formed request with an odd path or body."""

    name = "agent-routes"
    weight = 2
    mutate = staticmethod(json_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.routes = Routes(NoKernel())  # type: ignore[arg-type]

    def seeds(self) -> list[bytes]:
        return [json.dumps(one).encode() for one in (
            ["PUT", "/checkpoints/request-0001", {"name": "x", "pin": True, "document": None}],
            ["PUT", "/restores/request-0001", {"checkpoint": "abcd", "files": "keep"}],
            ["POST", "/signal", {"signal": 15}], ["PUT", "/schedule", {"every": "10m"}],
            ["GET", "/status", {}], ["POST", "/session", {"session": {"id": "x"}}])]

    def run(self, data: bytes) -> None:
        try:
            verb, path, body = json.loads(data)
        except (ValueError, TypeError, RecursionError):
            return
        if isinstance(verb, str) and isinstance(path, str) and isinstance(body, dict):
            json.dumps(self.routes.answer(verb, path, body)[1])


class OverSocket(Target):
    """A target behind a real unix socket, with slow and half requests."""

    weight = 0.35
    sock_name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = Path(tempfile.mkdtemp(prefix="s-", dir=folder))
        self.random = Random(1)
        self.lazy: list[socket.socket] = []

    def send(self, data: bytes) -> bytes:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(5)
        line.connect(str(self.place / self.sock_name))
        try:
            way = self.random.random()
            if way < 0.1 and len(self.lazy) < 8:  # says a part and then nothing
                line.sendall(data[:len(data) // 2])
                self.lazy.append(line)
                return b""
            if way < 0.3:  # comes in pieces
                for start in range(0, len(data), max(1, len(data) // 5)):
                    line.sendall(data[start:start + max(1, len(data) // 5)])
            elif way < 0.4:  # leaves without hearing the answer
                line.sendall(data)
                line.close()
                return b""
            else:
                line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            found = _read(line)
        except (ConnectionError, BrokenPipeError):
            found = b""
        if line not in self.lazy:
            line.close()
        if len(self.lazy) == 8:
            self.close_lazy()
        return found

    def close_lazy(self) -> None:
        while self.lazy:
            self.lazy.pop().close()

    def close(self) -> None:
        self.close_lazy()


class AgentSocket(OverSocket):
    """The agent's server, over its real socket."""

    name = "agent-socket"
    mutate = staticmethod(http_mutator)
    sock_name = "agent.sock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = AgentServer(self.place, NoKernel())  # type: ignore[arg-type]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def seeds(self) -> list[bytes]:
        return REQUESTS

    def run(self, data: bytes) -> None:
        _check_answer(self.send(data))
        if self.random.random() < 0.02:
            self.close_lazy()
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(5)
                line.connect(str(self.place / self.sock_name))
                line.sendall(REQUESTS[0])
                assert _read(line).startswith(b"HTTP/1.1 200"), "the agent answers no more"

    def close(self) -> None:
        super().close()
        self.server.shutdown()
        self.server.server_close()


class KernelSocket(OverSocket):
    """The in-kernel socket, over its real listener: one request after the other."""

    name = "kernel-socket"
    mutate = staticmethod(json_mutator)
    sock_name = "kernel.sock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.link = Link(str(self.place), self._answer, lambda: None)
        self.link.start()

    @staticmethod
    def _answer(asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("op") == "fail":
            raise ValueError(str(asked))
        return {"ok": True, "op": asked.get("op")}

    def seeds(self) -> list[bytes]:
        return [b'{"op": "ping"}\n', b'{"op": "fail", "x": 1}\n',
                b'{"op": "quiesce", "request_id": "r", "deadline_s": 30}\n']

    def run(self, data: bytes) -> None:
        if self.lazy:  # served in turn: one that dallies would hold all others up
            self.close_lazy()
        answer = self.send(data)
        if answer:
            assert isinstance(json.loads(answer), dict)
        if self.random.random() < 0.02:
            self.close_lazy()
            # The agent's own side of the line.
            found = KernelLink(self.place).ask("ping", 5)
            assert found is not None and found["ok"], "the kernel answers no more"


class KernelAnswer(Target):
    """What a kernel (which runs anybody's code) answers its agent."""

    name = "kernel-answer"
    weight = 0.5
    mutate = staticmethod(json_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.place = Path(tempfile.mkdtemp(prefix="k-", dir=folder))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.place / "kernel.sock"))
        self.listener.listen()
        self.answer = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line, suppress(OSError):
                line.recv(65536)
                line.sendall(self.answer)

    def seeds(self) -> list[bytes]:
        return [b'{"ok": true, "warnings": [], "status": {"busy": false}}\n', b'{"ok": false}\n']

    def run(self, data: bytes) -> None:
        self.answer = data
        found = KernelLink(self.place).ask("status", 2)
        assert found is None or isinstance(found, dict)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def _read(line: socket.socket) -> bytes:
    parts = []
    while part := line.recv(65536):
        parts.append(part)
    return b"".join(parts)


def _check_answer(answer: bytes) -> None:
    if not answer or answer.startswith(b"HTTP/1.1 100"):
        return
    status = int(answer.split(b" ", 2)[1])
    assert 200 <= status < 500, f"status {status}: {answer[-300:]!r}"
    body = answer.partition(b"\r\n\r\n")[2]
    found = json.loads(body) if body else {}
    if status >= 400 and body:
        assert set(found["error"]) >= {"code", "id", "message", "hint"}, found


