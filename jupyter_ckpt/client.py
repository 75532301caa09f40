"""The client of an agent's socket; blocking, safe to use from any thread."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .agent_place import help_or_end_hung
from .errors import AgentBusy, AgentUnreachable, from_dict
from .locations import Locations
from .protocol import SOCKET_NAME, Job, checked_kernel_id

OnProgress = Callable[[Job], None]
POLL_S = 0.02
START_DEADLINE_S = 30.0
ASKER = secrets.token_hex(8)
"""What this process calls itself in the acts it asks for; see `Job.asker`."""
POLL_TIMEOUT_S = 15.0
"""For questions that every agent answers from memory, however long its acts take."""
_REQUEST_TIMEOUT_S = 60.0


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over ``agent.sock`` in a folder whose path may be of any length."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._folder = folder

    def connect(self) -> None:
        handle = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{handle}/{SOCKET_NAME}")
        finally:
            os.close(handle)


class AgentClient:
    """Talks to the agent of the kernel whose runtime folder is `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None,
        timeout_s: float = _REQUEST_TIMEOUT_S,
    ) -> Any:
        """Send one request and return its JSON answer.

        Raises `AgentUnreachable` when nobody answers, or the error the agent
        answered with.
        """
        connection = _UnixConnection(self.folder, timeout_s)
        try:
            data = json.dumps(body).encode() if body is not None else b""
            with suppress(BrokenPipeError):  # a busy agent hangs up, and has said so before
                connection.request(method, path, data, {"Content-Length": str(len(data))})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentUnreachable(
                f"The agent of kernel {self.folder.name} does not answer ({error}).",
                "'jupyter ckpt ps' shows the kernels and starts missing agents.") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise from_dict(answer.get("error", {}))
        return answer

    def status(self, timeout_s: float = _REQUEST_TIMEOUT_S) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", "/status", timeout_s=timeout_s)
        return found

    def running(self) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", "/running")
        return found

    def put(self, kind: str, request_id: str, body: dict[str, Any]) -> Job:
        """Ask for an act; asking again with the same id is harmless."""
        return Job.from_dict(self.request(
            "PUT", f"/{kind}/{request_id}", {"asker": ASKER, **body}))

    def job(self, kind: str, request_id: str, store: str | None = None) -> Job:
        """Return a job; raise `JobNotFound` when it was neither asked for nor done.

        What an agent finished that has died since is looked for in `store`, a
        folder (default: the agent's own).
        """
        body = {"store": store} if store else None
        return Job.from_dict(self.request("GET", f"/{kind}/{request_id}", body, POLL_TIMEOUT_S))

    def cancel(self, kind: str, request_id: str) -> Job:
        return Job.from_dict(self.request("DELETE", f"/{kind}/{request_id}"))

    def wait(
        self, kind: str, request_id: str, on_progress: OnProgress | None = None,
        timeout_s: float | None = None, store: str | None = None,
    ) -> Job:
        """Poll a job to its end and return it; raise the job's own error.

        Raises `AgentUnreachable` when the agent goes away or time is up.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            job = self.job(kind, request_id, store)
            if on_progress is not None:
                on_progress(job)
            if job.finished:
                if job.error is not None:
                    raise job.error
                return job
            if deadline is not None and time.monotonic() > deadline:
                raise AgentUnreachable(
                    f"The agent of kernel {self.folder.name} is still {job.state}.",
                    f"Ask again later for request {request_id}.")
            time.sleep(POLL_S)

    def act(
        self, kind: str, body: dict[str, Any], on_progress: OnProgress | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Put a job, wait for its end and return its result; raise its error."""
        chosen = request_id or secrets.token_hex(12)
        self.put(kind, chosen, body)
        return self.wait(kind, chosen, on_progress, store=body.get("store")).result or {}

    def note_session(self, **fields: Any) -> None:
        """Note any of session, notebook and owner in the kernel's record."""
        self.request("POST", "/session", fields)

    def schedule(self, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the kernel's schedule, after `changes` (see `plan.changed`) if there are any."""
        method = "GET" if changes is None else "PUT"
        found: dict[str, Any] = self.request(method, "/schedule", changes)
        return found

    def shutdown(self) -> None:
        """End the kernel, its box and its agent."""
        self.request("POST", "/shutdown")

    def answers(self) -> bool:
        try:
            self.status(timeout_s=5)
        except AgentBusy:
            return True  # who says that does not hang
        except AgentUnreachable:
            return False
        return True


def start_agent(locations: Locations, kernel_id: str) -> AgentClient:
    """Return the client of a kernel id's agent, started if there is none, once it listens.

    A new one takes over the kernel its record tells of, if that lives; one that
    hangs is continued or, after `HUNG_AFTER_S`, ended. Raises
    `AgentUnreachable` with the agent's own words when it does not start.
    """
    folder = locations.folder(checked_kernel_id(kernel_id))
    client = AgentClient(folder)
    if client.answers() or help_or_end_hung(folder, client.answers):
        return client
    argv = [sys.executable, "-m", "jupyter_ckpt.kernel_agent", "--folder", str(folder),
            "--store", str(locations.store_dir), "--connections", str(locations.connection_dir)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, timeout=START_DEADLINE_S,
                              check=False, start_new_session=True)
    except subprocess.TimeoutExpired as error:
        raise AgentUnreachable("The kernel's agent did not start in time.",
                               f"Its log is {folder / 'agent.log'}.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise AgentUnreachable(lines[-1] if lines else "The kernel's agent did not start.",
                               f"Its log is {folder / 'agent.log'}.")
    return client
