"""A real Jupyter server as a process of its own, spoken to by REST."""

from __future__ import annotations

import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import requests

from jupyter_ckpt.procfs import ProcessId

from .home import Home
from .processes import trees

START_DEADLINE_S = 60.0
REQUEST_TIMEOUT_S = 120.0
T = TypeVar("T")


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


def wait_for(check: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Return the first true answer of `check`; raise `DemoFailed` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"Waited {timeout_s:g} s in vain: {what}.")
        time.sleep(0.02)


class Server:
    """One Jupyter server on a free port, with a token, in the demo's folders."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.token = secrets.token_hex(16)
        self.port = _free_port()
        self.log = home.folder / f"server-{self.port}.log"
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser",
                 f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
                 f"--IdentityProvider.token={self.token}",
                 f"--ServerApp.root_dir={home.work}"],
                env=home.env, cwd=home.work, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        wait_for(self._answers, START_DEADLINE_S, "the Jupyter server answers")
        self.ready_after_s = time.monotonic() - self.began

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> set[ProcessId]:
        return trees([self.process.pid])

    def ask(self, verb: str, path: str, body: Any = None) -> Any:
        """Request and return the JSON answer; raise `DemoFailed` with the server's words."""
        answer = requests.request(verb, self.url + path, json=body, timeout=REQUEST_TIMEOUT_S,
                                  headers={"Authorization": f"token {self.token}"})
        if not answer.ok:
            raise DemoFailed(f"{verb} {path} was answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.text else None

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise DemoFailed(f"The Jupyter server ended:\n{self.log.read_text()[-2000:]}")
        try:
            self.ask("GET", "/api/status")
        except requests.ConnectionError:
            return False
        return True


def _free_port() -> int:
    """Return a port that the system hands to nobody before the server binds it."""
    while True:
        port = random.randrange(10_000, 15_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
