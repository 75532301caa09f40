"""The agent's protocol: names, states and limits shared by both ends.

HTTP/1.1 with JSON bodies on a unix socket (mode 0600). Every act is a *job*
with an id chosen by the caller, so that a request may be repeated until it is
answered: the same id never acts twice and always answers the same, also from
another agent when the first one has died (what an act made tells: see
`checkpoint_id` and ``Record.origin``).

======================================  =======================================
``GET /status``                         the record, the state, the kernel's tree
``PUT /launches/<request_id>``          start a kernel (an agent without one)
``PUT /checkpoints/<request_id>``       save; also ``GET``; ``DELETE`` cancels until the dump
``PUT /restores/<request_id>``          restore into this agent; also ``GET``
``GET /events``                         a JSON line for each job that begins, gets on or ends
``GET /running``                        the cell that runs now, with its outputs
``POST /session``                       note what notebook the kernel belongs to
``GET|PUT /schedule``                   when checkpoints are made by themselves
``POST /cells``                         the kernel has finished as many cells as it was told
``POST /interrupt|/signal|/shutdown``   act on the kernel
======================================  =======================================
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from .errors import (
    Cancelled,
    CheckpointError,
    ProtocolError,
    UsageError,
    from_dict,
    quoted,
)
from .shapes import misfit

log = logging.getLogger(__name__)
API_VERSION = 1
MAX_BODY_BYTES = 64 << 20
REQUEST_TIMEOUT_S = 30.0
MAX_WAIT_S = 3600
"""The longest that a restore can be told to wait for ports and the like."""

SOCKET_NAME = "agent.sock"
KERNEL_SOCKET_NAME = "kernel.sock"
PORT_NAMES = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
"""A kernel's ports, as its connection file names them."""
BOX_RUNTIME_DIR = "/dev/shm/.jupyter_ckpt"
"""Where a box shows the kernel's runtime folder: the same in every box."""

TRIGGERS = ("manual", "magic", "interval", "cell", "shutdown", "cull", "api")
DISK_STATES = ("preparing", "storing", "verifying")
"""Stages of a job that read and write the store: what hangs then is its disk."""
STATES = ("queued", "launching", "quiescing", "dumping", "storing",
          "verifying", "preparing", "restoring", "done", "failed")
FINAL_STATES = ("done", "failed")

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_KERNEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{3,63}")


def checked_request_id(text: object) -> str:
    """Return `text` when it is a request id; raise `ProtocolError` otherwise."""
    if not isinstance(text, str) or not _REQUEST_ID.fullmatch(text):
        raise ProtocolError("A request id is 8 to 64 letters, digits, '-' or '_'.")
    return text


def is_kernel_id(text: object) -> bool:
    return isinstance(text, str) and _KERNEL_ID.fullmatch(text) is not None


def checked_kernel_id(text: object) -> str:
    """Return `text` when it is a kernel id; raise `ProtocolError` otherwise.

    Kernel ids name folders, so nothing that could leave one passes.
    """
    if not isinstance(text, str) or not is_kernel_id(text):
        raise ProtocolError(f"{quoted(text)} is not a kernel id.")
    return text


def checked_wait_s(value: Any) -> float | None:
    """Return how many seconds a restore waits for what passes by itself; None: as usual.

    Raises `UsageError` for anything but None and a number from 0 to `MAX_WAIT_S`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
            0 <= value <= MAX_WAIT_S):  # not so for NaN either
        raise UsageError(f"How long to wait is a number of seconds from 0 to {MAX_WAIT_S}.")
    return float(value)


def checkpoint_id(kernel_id: str, request_id: str) -> str:
    """Return the id of the checkpoint that a save makes: 16 lower-case hex digits.

    The same request to the same kernel can therefore never make two, whoever
    serves it, and anybody can tell from the store alone that it was served.
    """
    return hashlib.sha256(f"{kernel_id}/{request_id}".encode()).hexdigest()[:16]


@dataclass
class Job:
    """One act of an agent as its callers see it."""

    id: str
    kind: str
    state: str = "queued"
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    result: dict[str, Any] | None = None
    error: CheckpointError | None = None
    warnings: list[str] = field(default_factory=list)
    asker: str = ""
    """What its caller calls itself; whoever asked tells of it, others listen."""
    at_disk: bool = False
    """Whether it is the store's disk that it waits for when it does not get on."""
    irrevocable: bool = False
    """Whether it has done what others rely on: it is not given up, however long it takes."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def enter(self, state: str, at_disk: bool | None = None) -> None:
        """Begin a stage; `state` is one of `STATES`. It is logged with its time.

        `at_disk` tells whether it waits for the store's disk, where `state` does not.
        Raises `Cancelled` when the job was taken back or given up meanwhile.
        """
        with self._lock:
            self._check_wanted()
            self.state, self.phase = state, ""
            self.at_disk = state in DISK_STATES if at_disk is None else at_disk
            if state not in FINAL_STATES:
                self.done_bytes = self.total_bytes = 0
        log.info("%s %s: %s", self.kind, self.id, state)

    def advance(self, done_bytes: int) -> None:
        """Count bytes that were read or written; raises like `enter`."""
        with self._lock:
            self._check_wanted()
            self.done_bytes += done_bytes

    def pass_point_of_no_return(self) -> None:
        """Let nobody give the job up any more; raises like `enter`."""
        with self._lock:
            self._check_wanted()
            self.irrevocable = True

    def take_back_point_of_no_return(self) -> None:
        """Let the job be given up again: what it has done so far stands by itself."""
        with self._lock:
            self.irrevocable = False

    def _check_wanted(self) -> None:
        if self.state == "failed" and self.error is not None:
            raise Cancelled(self.error.message, self.error.hint)

    def cancel(self) -> bool:
        """Take the job back if nothing was done for it yet; tell whether that could be.

        A save can be taken back until its dump begins: the kernel is asked first.
        """
        early = ("queued", "quiescing") if self.kind == "checkpoints" else ("queued",)
        with self._lock:
            if self.state not in early:
                return False
            self.error = Cancelled("The request was cancelled before it began.")
            self.state, self.phase = "failed", ""
            return True

    def give_up(self, error: CheckpointError) -> bool:
        """End a job that hangs in a disk with `error`; tell whether that could be.

        What carries it out ends by itself should its disk come back: `enter` and
        `advance` raise. One that is irrevocable is not given up.
        """
        with self._lock:
            if self.irrevocable or not self.at_disk or self.finished:
                return False
            self.error = error
            self.state, self.phase = "failed", ""
            return True

    def fail(self, error: CheckpointError) -> None:
        """End the job with `error`, of which only the words are kept: no frames, no memory.

        One that was cancelled stays cancelled.
        """
        error.__traceback__ = error.__context__ = error.__cause__ = None
        with self._lock:
            self.result = None
            if not self.finished:
                self.error = error
                self.state, self.phase = "failed", ""

    @property
    def finished(self) -> bool:
        return self.state in FINAL_STATES

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON answered by ``GET /<kind>s/<id>``."""
        return {
            "id": self.id,
            "kind": self.kind,
            "state": self.state,
            "phase": self.phase,
            "progress": {"done_bytes": self.done_bytes, "total_bytes": self.total_bytes},
            "result": self.result,
            "error": self.error.to_dict() if self.error else None,
            "warnings": list(self.warnings),
            "asker": self.asker,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Job:
        """Return the job that an agent answered; raise `ProtocolError` on a bad shape."""
        place = misfit(data, _JOB_SHAPE)
        if place is not None:
            raise ProtocolError(f"The agent's answer about a job is malformed: {place}.")
        progress = data.get("progress") or {}
        error = data.get("error")
        return cls(
            id=str(data["id"]), kind=str(data["kind"]), state=str(data["state"]),
            phase=str(data.get("phase", "")),
            done_bytes=int(progress.get("done_bytes", 0)),
            total_bytes=int(progress.get("total_bytes", 0)),
            result=data.get("result"),
            error=from_dict(error) if error else None,
            warnings=list(data.get("warnings", ())),
            asker=str(data.get("asker", "")),
        )


_JOB_SHAPE = {
    "id": str, "kind": str, "state": str, "phase?": str, "result?": (dict, None),
    "progress?": ({"done_bytes?": int, "total_bytes?": int}, None), "error?": (dict, None),
    "warnings?": [str], "asker?": str,
}
