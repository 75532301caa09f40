"""A real IPython kernel with its in-kernel part, and an agent that is a fake."""

from __future__ import annotations

import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from jupyter_ckpt.kernel_ports import kernel_ports

STARTUP = Path(__file__).parents[1] / "jupyter_ckpt" / "inkernel" / "startup.py"
PYTHON = os.environ.get("JUPYTER_CKPT_TEST_KERNEL_PYTHON", sys.executable)
"""Another interpreter here runs these tests against its IPython and ipykernel."""
PATIENCE_S = 60.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until `condition` is true and return what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


def manifest(**changes: Any) -> dict[str, Any]:
    return {"id": "3f2a91c0aabbccdd", "created_at": "2026-01-01T00:00:00.000Z", "name": None,
            "note": None, "memory_bytes": 212_000_000, "stored_bytes": 31_000_000,
            "pause_s": 0.12, "warnings": [], "pinned": False, **changes}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class FakeAgent:
    """Answers on ``agent.sock`` as the agent does; keeps what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.checkpoints: list[dict[str, Any]] = []
        self.schedule: dict[str, Any] = {}
        self.refusal: tuple[int, dict[str, Any]] | None = None
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                status, data = agent.answer(self.command, self.path)
                agent.asked.append((self.command, self.path, body))  # who waits for it goes on
                text = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_PUT = do_DELETE = do_POST = _answer

            def log_message(self, *_: Any) -> None:
                return

            def address_string(self) -> str:
                return "kernel"

        self._server = _Server(str(folder / "agent.sock"), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        if self.refusal is not None:
            return self.refusal
        if path == "/schedule":
            return 200, self.schedule
        if path == "/cells":
            return 202, {"accepted": True, "cells": self.schedule.get("cells")}
        if path == "/list":
            return 200, self.checkpoints
        request_id = path.rsplit("/", 1)[-1]
        if method == "PUT":
            self.jobs.setdefault(request_id, {"id": request_id, "state": "queued"})
            return 202, self.jobs[request_id]
        if request_id not in self.jobs:
            return 404, {"error": {"id": "job-not-found", "message": "No such job.", "code": 3}}
        return 200, self.jobs[request_id]

    def request_id(self) -> str:
        """Wait for a checkpoint to be asked for and return its request id."""
        puts = until(lambda: [p for m, p, _ in self.asked
                              if m == "PUT" and p.startswith("/checkpoints/")], "a PUT")
        return str(puts[-1].rsplit("/", 1)[-1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class InjectedKernel:
    """An ipykernel process with our PYTHONSTARTUP, a client, and the agent's line."""

    def __init__(self, runtime: Path | None = None, **environ: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ckptk"))
        self.runtime = runtime or self.folder / "run"
        self.runtime.mkdir(exist_ok=True)
        self.connection_file = str(self.folder / "kernel-test.json")
        write_connection_file(self.connection_file, ip="127.0.0.1", key=b"first-key",
                              **kernel_ports("127.0.0.1"))
        env = {**os.environ, "PYTHONSTARTUP": str(STARTUP), "IPYTHONDIR": str(self.folder / "ipy"),
               "JUPYTER_CKPT_RUNTIME": str(self.runtime), "PYDEVD_DISABLE_FILE_VALIDATION": "1",
               **environ}
        for name in ("PYTEST_CURRENT_TEST", "JPY_PARENT_PID"):
            env.pop(name, None)
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "ipykernel_launcher", "-f", self.connection_file], env=env,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        self.client = self.connect()

    def connect(self) -> BlockingKernelClient:
        client = BlockingKernelClient(connection_file=self.connection_file)
        client.load_connection_file()
        client.start_channels()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                client.wait_for_ready(timeout=PATIENCE_S)
                return client
            except RuntimeError:  # a late heartbeat on a loaded machine reads as death
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text()) from None

    def op(self, op: str, **fields: Any) -> dict[str, Any]:
        """Do one exchange on kernel.sock, reading until the kernel has closed."""
        return self.raw(json.dumps({"op": op, **fields}).encode() + b"\n")

    def raw(self, line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.runtime / "kernel.sock"))
            sock.sendall(line)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        found: dict[str, Any] = json.loads(answer)
        return found

    def start(self, code: str, **kwargs: Any) -> str:
        """Send a cell and return its message id."""
        return str(self.client.execute(code, **kwargs))

    def finish(self, msg_id: str) -> list[dict[str, Any]]:
        """Return the iopub messages of a request, up to its idle."""
        messages = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=PATIENCE_S)
            except Empty:
                raise AssertionError(f"the cell never ended: {self.log.read_text()}") from None
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            messages.append(message)
            if message["msg_type"] == "status" and (
                    message["content"]["execution_state"] == "idle"):
                return messages

    def run(self, code: str) -> str:
        """Run a cell and return all text it put out; errors included."""
        return text_of(self.finish(self.start(code)))

    def value(self, expression: str) -> Any:
        """Return a JSON-able value of the kernel."""
        return json.loads(self.run(f"import json as _j; print(_j.dumps({expression}))"))

    def close(self) -> None:
        self.client.stop_channels()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def text_of(messages: list[dict[str, Any]]) -> str:
    parts = []
    for message in messages:
        content, kind = message["content"], message["msg_type"]
        if kind == "stream":
            parts.append(content["text"])
        elif kind in ("display_data", "execute_result"):
            parts.append(content["data"].get("text/plain", ""))
        elif kind == "error":
            parts.append("\n".join(content["traceback"]))
    return "".join(parts)
