"""A real Jupyter server in a process of its own, for tests.

Every server of one `Home` shares its data, runtime and configuration folders
and its notebooks, as the servers of one user do.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import requests
import websocket

from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.server.events import SCHEMA_ID

TOKEN = "a-token-for-tests"
EXTENSIONS = {"jupyter_ckpt": True, "jupyterlab": False, "jupyter_lsp": False,
              "notebook_shim": False, "jupyter_server_terminals": False}
SLICE_S = 5.0
"""Shorter than the server's ping interval: `recv` answers pings and goes on waiting."""
T = TypeVar("T")


def wait_until(check: Callable[[], T | None], timeout_s: float = 90.0, what: str = "") -> T:
    """Return the first true answer of `check`; fail the test at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or check}")
        time.sleep(0.02)


_SIGNS: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody has or is given before a server binds it, seconds later.

    What the system hands out and `kernel_ports` chooses lies above; of all tests that
    run, one alone can have the name that is kept for the life of the process.
    """
    while True:
        port = random.randrange(10_000, 15_000)
        sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sign.bind(f"\0jupyter_ckpt test port {port}")
        except OSError:
            sign.close()
            continue
        _SIGNS.append(sign)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


class Home:
    """The folders of one user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data", "runtime", "config", "ipython", "notebooks"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.notebooks = folder / "notebooks"
        self.runtime = folder / "runtime"
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith("JPY_")}
        self.env.update(
            JUPYTER_DATA_DIR=str(folder / "data"), JUPYTER_RUNTIME_DIR=str(self.runtime),
            JUPYTER_CONFIG_DIR=str(folder / "config"), IPYTHONDIR=str(folder / "ipython"),
            JUPYTER_PLATFORM_DIRS="1", PYTHONUNBUFFERED="1")

    def configure(self, text: str) -> None:
        """Write the servers' configuration file."""
        (self.folder / "config" / "jupyter_server_config.py").write_text(text)

    def write_notebook(self, name: str, *sources: str) -> Path:
        cells = [{"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "outputs": [],
                  "execution_count": None, "source": source}
                 for number, source in enumerate(sources)]
        document = {"nbformat": 4, "nbformat_minor": 5, "cells": cells, "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}}
        path = self.notebooks / name
        path.write_text(json.dumps(document))
        return path

    def record(self, kernel_id: str) -> dict[str, Any] | None:
        """Return the runtime record of a kernel, None when there is none."""
        try:
            found: dict[str, Any] = json.loads(
                (self.runtime / "ckpt" / kernel_id / "record.json").read_bytes())
            return found
        except (OSError, ValueError):
            return None

    def records(self) -> list[dict[str, Any]]:
        folder = self.runtime / "ckpt"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return [record for record in map(self.record, names) if record is not None]

    def fail_next(self, kernel_id: str | None, **error: Any) -> None:
        """Let the next act with a kernel (None: a restore as a new one) fail in `server_fakes`."""
        folder = self.runtime / "ckpt" / (kernel_id or "")
        new = folder / "fail.new"
        new.write_text(json.dumps({"hint": "", **error}))
        new.rename(folder / "fail.json")  # read at any moment

    def end_all_kernels(self) -> None:
        """End what a test left running here."""
        for record in self.records():
            for name in ("agent", "init", "kernel"):
                identity = ProcessId.from_dict(record.get(name))
                if identity is not None and identity.is_alive():
                    with contextlib.suppress(ProcessLookupError):  # with its box, just now
                        os.kill(identity.pid, signal.SIGKILL)


class Server:
    """One running server."""

    def __init__(
        self, home: Home, *arguments: str, root_dir: Path | None = None, **env: str
    ) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home.folder / f"server-{self.port}.log"
        self.started_at = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser",
                 f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
                 f"--IdentityProvider.token={TOKEN}",
                 f"--ServerApp.root_dir={root_dir or home.notebooks}",
                 f"--ServerApp.jpserver_extensions={EXTENSIONS}", *arguments],
                env={**home.env, **env}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, cwd=home.folder, start_new_session=True)
        wait_until(self._answers, 60, f"{self.url} answers")
        self.ready_after_s = time.monotonic() - self.started_at

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log.read_text()[-4000:]}")
        try:
            return self.request("GET", "/api/status", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            return False

    def request(self, verb: str, path: str, body: Any = None, token: str | None = TOKEN,
                **arguments: Any) -> requests.Response:
        headers = {"Authorization": f"token {token}"} if token else {}
        return requests.request(verb, self.url + path, json=body, headers=headers,
                                timeout=arguments.pop("timeout", 120), **arguments)

    def ok(self, verb: str, path: str, body: Any = None) -> Any:
        """Request and return the JSON answer, which must be a success."""
        answer = self.request(verb, path, body)
        assert answer.ok, f"{verb} {path}: {answer.status_code} {answer.text}\n{self.tail()}"
        return answer.json() if answer.text else None

    def tail(self) -> str:
        return self.log.read_text()[-6000:]

    def open_session(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("POST", "/api/sessions", {
            "path": path, "name": Path(path).name, "type": "notebook",
            "kernel": {"name": "python3"}})
        return found

    def connect(self, kernel_id: str, session: str | None = None) -> Channel:
        return Channel(self, kernel_id, session)

    def save(self, kernel_id: str, **body: Any) -> dict[str, Any]:
        """Save a kernel, wait for the job, and return it."""
        job = self.ok("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints", body)
        return self.finished_job(job["id"])

    def finished_job(self, job_id: str) -> dict[str, Any]:
        def done() -> dict[str, Any] | None:
            job: dict[str, Any] = self.ok("GET", f"/api/ckpt/jobs/{job_id}")
            return job if job["state"] in ("done", "failed") else None

        return wait_until(done, 90, f"job {job_id} ends")

    def kill(self) -> None:
        """End the server as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the server on purpose; its kernels follow its policy."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


class Channel:
    """A websocket to a kernel, as a browser has one."""

    def __init__(self, server: Server, kernel_id: str, session: str | None) -> None:
        self.session = session or uuid.uuid4().hex
        began = time.monotonic()
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels"
            f"?session_id={self.session}&token={TOKEN}", timeout=60)
        self.opened_after_s = time.monotonic() - began

    def send(self, code: str, cell_id: str | None = None) -> str:
        """Send a cell and return its message id."""
        message_id = uuid.uuid4().hex
        self.socket.send(json.dumps({
            "channel": "shell", "parent_header": {}, "buffers": [],
            "metadata": {"cellId": cell_id} if cell_id else {},
            "header": {"msg_id": message_id, "msg_type": "execute_request", "username": "test",
                       "session": self.session, "version": "5.4",
                       "date": "2026-01-01T00:00:00Z"},
            "content": {"code": code, "silent": False, "store_history": True,
                        "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}}))
        return message_id

    def messages(self, timeout_s: float = 60.0) -> Any:
        """Yield messages until the deadline, then fail."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(min(left, SLICE_S))
            with contextlib.suppress(websocket.WebSocketTimeoutException):
                yield json.loads(self.socket.recv())
        raise AssertionError(f"no more messages within {timeout_s:g} s")

    def wait_text(self, message_id: str, text: str, timeout_s: float = 60.0) -> None:
        """Wait until the cell `message_id` has printed `text`."""
        for message in self.messages(timeout_s):
            if (message["parent_header"].get("msg_id") == message_id
                    and message["msg_type"] == "stream" and text in message["content"]["text"]):
                return

    def result(self, message_id: str, timeout_s: float = 60.0) -> tuple[str, int | None]:
        """Return what a cell printed and its execution count, when it is idle again."""
        printed, count = "", None
        replied = idle = False
        for message in self.messages(timeout_s):
            if message["parent_header"].get("msg_id") != message_id:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                printed += f"{content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "execute_result":
                printed += content["data"]["text/plain"]
            elif message["msg_type"] == "execute_reply":
                replied, count = True, content.get("execution_count")
            elif message["msg_type"] == "status":
                idle = content["execution_state"] == "idle"
            if replied and idle:
                return printed, count
        raise AssertionError("unreachable")

    def run(self, code: str, timeout_s: float = 60.0) -> str:
        """Run a cell and return what it printed."""
        return self.result(self.send(code), timeout_s)[0].strip()

    def close(self) -> None:
        self.socket.close()


class Events:
    """Listens on /api/events/subscribe from its creation on."""

    def __init__(self, server: Server) -> None:
        self.seen: list[dict[str, Any]] = []
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/api/events/subscribe?token={TOKEN}", timeout=60)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                event = json.loads(self._socket.recv())
            except (OSError, ValueError, websocket.WebSocketException):
                return
            if event.get("schema_id") == SCHEMA_ID:
                self.seen.append(event)

    def phases(self, action: str, until: str) -> list[str]:
        """Return the phases of an action once `until` is among them."""
        def found() -> list[str]:
            phases = [one["phase"] for one in self.seen if one["action"] == action]
            return phases if until in phases else []

        return wait_until(found, 60, f"event {action} {until}")

    def last(self, action: str, phase: str) -> dict[str, Any]:
        """Return the last event of an action and phase, once there is one."""
        self.phases(action, phase)
        return [one for one in self.seen
                if (one["action"], one["phase"]) == (action, phase)][-1]

StartServer = Callable[..., Server]
"""Starts a server in a home with further arguments: a fixture of jupyter_fixtures."""
