"""Asking the agent beside this kernel: one short HTTP request per connection."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from typing import Any
from urllib.parse import quote

from .failures import CheckpointFailed, failure_from
from .silence import Deadline, Silence

SOCKET_NAME = "agent.sock"
MAX_ANSWER_BYTES = 64 << 20
GONE = "agent-unreachable"
RETURNS_WITHIN_S = 5.0
"""A server that notices the death of an agent starts another within a second or two."""
_ASK_AGAIN_S = 0.1
STARTS_ONE = "'jupyter ckpt save' in a terminal starts a new agent for this kernel."


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("kernel", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentClient:
    """The agent's socket in `runtime`, used only while `silence` allows it."""

    def __init__(self, runtime: str, silence: Silence) -> None:
        self.runtime = runtime
        self._silence = silence

    def ask(self, method: str, path: str, body: Any = None, *, timeout_s: float = 10.0,
            wait_s: float | None = None, patience_s: float = 0.0) -> Any:
        """Return the agent's JSON answer; the connection is closed by then.

        Waits at most `wait_s` (None: until Ctrl-C) while a checkpoint is being
        made, and `patience_s` for another agent when there is none. Raises
        `CheckpointFailed`: ``message_id`` is "agent-unreachable" when nobody
        answers, else what the agent says.
        """
        deadline = Deadline(patience_s)
        while True:
            try:
                return self._ask(method, path, body, timeout_s, wait_s)
            except CheckpointFailed as error:
                if error.message_id != GONE or not deadline.left_s():
                    raise
            time.sleep(_ASK_AGAIN_S)

    def _ask(self, method: str, path: str, body: Any, timeout_s: float, wait_s: float | None
             ) -> Any:
        with self._silence.broken(wait_s) as allowed:
            if not allowed:
                raise CheckpointFailed("A checkpoint is being made just now.",
                                       "Try again in a moment.", "busy")
            try:
                status, data = self._exchange(method, path, body, timeout_s)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise CheckpointFailed(
                    f"The checkpoint agent of this kernel does not answer ({error}).",
                    STARTS_ONE, GONE) from None
        if status >= 400:
            raise failure_from(data)
        return data

    def _exchange(self, method: str, path: str, body: Any, timeout_s: float) -> tuple[int, Any]:
        connection = _UnixConnection(os.path.join(self.runtime, SOCKET_NAME), timeout_s)
        try:
            payload = None if body is None else json.dumps(body).encode()
            connection.request(method, path, payload,
                               {"Content-Type": "application/json", "Connection": "close"})
            answer = connection.getresponse()
            with answer:
                text = answer.read(MAX_ANSWER_BYTES)
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def request_checkpoint(self, request_id: str, body: dict[str, Any]) -> Any:
        return self.ask("PUT", f"/checkpoints/{quote(request_id)}", body,
                        patience_s=RETURNS_WITHIN_S)

    def job(self, request_id: str) -> Any:
        return self.ask("GET", f"/checkpoints/{quote(request_id)}", timeout_s=5.0, wait_s=0)

    def cancel(self, request_id: str) -> Any:
        return self.ask("DELETE", f"/checkpoints/{quote(request_id)}", timeout_s=2.0, wait_s=0)

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the manifests of this kernel's and its notebook's checkpoints."""
        answer = self.ask("GET", "/list", patience_s=RETURNS_WITHIN_S)
        if isinstance(answer, dict):
            answer = answer.get("checkpoints", [])
        return [entry for entry in answer or [] if isinstance(entry, dict)]
