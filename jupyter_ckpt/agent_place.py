"""The one agent's place beside a runtime folder: who has it, and how it is freed.

A lock file (``.<kernel id>.lock`` beside the folder) is held by the agent with
flock, and names it. An agent whose file was replaced has lost its place and
writes nothing any more.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from .errors import AgentUnreachable
from .procfs import ProcessId, stat_fields
from .record import RECORD_NAME
from .remains import try_to_end_remains

log = logging.getLogger(__name__)
HUNG_AFTER_S = 10.0
"""An agent that holds its place and answers nobody for so long is ended."""
TAKE_DEADLINE_S = 15.0
_OTHER_LOCKS = (".pressure.lock", ".parked-")
"""Locks of the same folder by which agents and servers agree: no agent's place."""
_POLL_S = 0.02
_ASK_EVERY_S = 0.5


class Place:
    """A place that this process has taken; see `take`."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    def name_holder(self) -> None:
        """Write into the file who holds it: called by the agent itself, after its fork."""
        own = ProcessId.of(os.getpid())
        assert own is not None
        data = json.dumps(own.to_dict()).encode()
        try:
            os.pwrite(self._handle, data, 0)  # over the old one: a full disk has that room
            os.ftruncate(self._handle, len(data))
        except OSError as error:
            # A hung agent is found by its name only; serving needs none.
            log.error("the lock file cannot name this agent: %s", error)

    def is_ours(self) -> bool:
        """Tell whether the file still is the one we hold."""
        return _is(self._handle, self._path)

    def leave(self) -> None:
        """Give the place up; the file goes, unless it is another's by now."""
        if self.is_ours():
            self._path.unlink(missing_ok=True)
        os.close(self._handle)


def lock_path(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def take(folder: Path, is_served: Callable[[], bool] = lambda: False,
         deadline_s: float = TAKE_DEADLINE_S) -> Place | None:
    """Take the place beside `folder`; None when another agent has it and serves.

    An agent that is about to end is waited for. Raises `AgentUnreachable` after
    `deadline_s`.
    """
    path = lock_path(folder)
    deadline = time.monotonic() + deadline_s
    ask_at = time.monotonic()
    while time.monotonic() < deadline:
        place = _take_now(path)
        if place is not None:
            return place
        if time.monotonic() >= ask_at:
            if is_served():
                return None
            ask_at = time.monotonic() + _ASK_EVERY_S
        time.sleep(_POLL_S)
    raise AgentUnreachable(
        f"Another agent holds kernel {folder.name} and does not let go.",
        "'jupyter ckpt ps' shows it.")


def _take_now(path: Path) -> Place | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The one before us removed the file when it ended: ours must be the new one.
        if _is(handle, path):
            return Place(path, handle)
    except BlockingIOError:
        pass
    os.close(handle)
    return None


def holder(folder: Path) -> ProcessId | None:
    """Return the living agent that has the place, None when nobody (known) has it."""
    path = lock_path(folder)
    try:
        found = ProcessId.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found is not None and found.is_alive() and _has_open(found, path) else None


def help_or_end_hung(
    folder: Path, answers: Callable[[], bool], hung_after_s: float = HUNG_AFTER_S
) -> bool:
    """Return True when the agent of `folder` answers again, False when there is none.

    A stopped agent is continued. One that still answers nobody after
    `hung_after_s` is killed, which costs nothing: what it was storing stays
    invisible, what it had frozen is let go by ``ckpt-notify``, and what it was
    replacing is brought back by the next agent.
    """
    agent = holder(folder)
    if agent is None:
        return False
    fields = stat_fields(agent.pid)
    if fields is not None and fields[0] == "T":
        log.warning("agent %d of kernel %s was stopped: it is continued", agent.pid, folder.name)
        _send(agent, signal.SIGCONT)
    deadline = time.monotonic() + hung_after_s
    while holder(folder) == agent:
        if answers():
            return True
        if time.monotonic() > deadline:
            log.warning("agent %d of kernel %s answers nobody: it is ended", agent.pid, folder.name)
            _send(agent, signal.SIGKILL)
            deadline += HUNG_AFTER_S
        time.sleep(_ASK_EVERY_S / 10)
    return False


def remove_stale(runtime_dir: Path) -> None:
    """Remove what agents left that were killed before they had a kernel.

    Lock files nobody holds, and the folders beside them that have no record.
    """
    for path in runtime_dir.glob(".*.lock") if runtime_dir.is_dir() else ():
        folder = path.parent / path.name[1:-len(".lock")]
        if path.name.startswith(_OTHER_LOCKS) or (folder / RECORD_NAME).exists():
            continue
        place = _take_now(path)
        if place is None:
            continue
        if not (folder / RECORD_NAME).exists():
            try_to_end_remains(folder)
            shutil.rmtree(folder, ignore_errors=True)
        place.leave()


def _send(agent: ProcessId, number: int) -> None:
    try:
        handle = os.pidfd_open(agent.pid)
    except ProcessLookupError:
        return
    try:
        if agent.is_alive():  # asked with the handle in hand: no other can take the pid
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _has_open(agent: ProcessId, path: Path) -> bool:
    try:
        wanted = os.stat(path)
        for name in os.listdir(f"/proc/{agent.pid}/fd"):
            found = os.stat(f"/proc/{agent.pid}/fd/{name}")
            if os.path.samestat(found, wanted):
                return True
    except OSError:
        return False
    return False


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
