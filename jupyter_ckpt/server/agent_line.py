"""A line to one kernel's agent: what it does by itself is heard, and its death at once."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from ..client import ASKER
from ..errors import ProtocolError
from ..protocol import MAX_BODY_BYTES, SOCKET_NAME, Job
from .events import Act, Emitter

ACTIONS = {"checkpoints": "save", "restores": "restore"}
_REQUEST = b"GET /events HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n"


class AgentLine:
    """Tells as events what the agent in `folder` does that this process did not ask for."""

    def __init__(self, folder: Path, events: Emitter) -> None:
        self._folder = folder
        self._events = events
        self._acts: dict[str, Act] = {}

    async def listen(self) -> None:
        """Listen until the agent ends; acts that were begun then are followed up again.

        Raises `OSError` where nobody listens at its socket, and `ProtocolError` for
        what is no answer of an agent.
        """
        reader, writer = await _connected(self._folder)
        try:
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ProtocolError("The agent has no events to tell: it is of an older version.")
            while line := await reader.readline():
                self._hear(line)
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # it died
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise ProtocolError(f"The agent tells what is no event: {error}.") from error
        finally:
            writer.close()

    def _hear(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            return  # it died within a word
        job = Job.from_dict(json.loads(line))
        action = ACTIONS.get(job.kind)
        if action is None or job.asker == ASKER:
            return  # whoever asked in this process tells of it
        act = self._acts.get(job.id)
        if act is None:
            act = self._acts[job.id] = Act(self._events, action, job.id, self._folder.name)
            act.started()
        if not job.finished:
            act.progressed(job)
            return
        del self._acts[job.id]
        if job.error is not None:
            act.failed(job.error)
            return
        result = job.result or {}
        act.checkpoint_id = result.get("id") if action == "save" else result.get("checkpoint")
        act.succeeded()


async def _connected(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # By way of the folder's descriptor: a socket's path is at most 107 bytes.
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        return await asyncio.open_unix_connection(
            f"/proc/self/fd/{handle}/{SOCKET_NAME}", limit=MAX_BODY_BYTES)
    finally:
        os.close(handle)
