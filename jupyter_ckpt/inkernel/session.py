"""This kernel's session: what the agent may ask of it and a user's code may do."""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any

from . import flush
from .agentclient import RETURNS_WITHIN_S, AgentClient
from .checkpoint import Checkpoint
from .failures import CheckpointFailed
from .history import History
from .hooks import Hooks, Refusal, inside_hook
from .identity import Identity
from .journal import Journal
from .link import Link
from .mainthread import MainThread, in_thread
from .schedule import CellCount, FailureNews
from .signature import Signature
from .silence import Deadline, Silence
from .waiter import Waiter

DEADLINE_S = 10.0
LIFT_AFTER_TICKS = 60
"""Seconds after which silence ends by itself, should the agent have died."""


class Session:
    """Joins journal, hooks, history and identity to the agent's requests."""

    def __init__(self, shell: Any, runtime: str) -> None:
        self._shell = shell
        self._pid = os.getpid()
        self.journal = Journal(shell)
        self.history: History | None = None
        self.identity = Identity(shell.kernel)
        self.signature = Signature(shell.kernel.session)
        self.on_checkpoint = Hooks("checkpoint")
        self.on_restore = Hooks("restore")
        self.silence = Silence()
        self.agent = AgentClient(runtime, self.silence)
        self.cells = CellCount(self.agent)
        self.journal.on_cell_end = self.cells.cell_ended
        self.failure_news = FailureNews(self.agent)
        self.main = MainThread(shell.kernel, lambda: self.journal.is_busy)
        self.epoch = 1
        self._lock = threading.Lock()
        self._waiters: dict[str, Waiter] = {}
        self._ticks = 0
        self._answered: tuple[str, dict[str, Any]] = ("", {})
        self.link = Link(runtime, self.answer, self._count_tick)

    # -- a user's call ------------------------------------------------------------------

    def checkpoint(self, name: str | None = None, note: str | None = None,
                   pin: bool = False) -> Checkpoint:
        """Save this session and return the checkpoint; in a restored process, return again.

        Raises `CheckpointFailed`, or `CheckpointRefused` when a hook refused, and
        `TypeError` for arguments of other types.
        """
        _check_types(name, note, pin)
        if os.getpid() != self._pid:
            raise CheckpointFailed("A child process cannot make a checkpoint.",
                                   "Call it in the kernel itself.", "usage")
        if inside_hook():
            raise CheckpointFailed("A hook cannot make a checkpoint.", "", "usage")
        waiter = Waiter(uuid.uuid4().hex, {
            "name": name, "note": note, "pin": pin, "trigger": "magic"})
        on_main = threading.current_thread() is threading.main_thread()
        with self._lock:
            self._waiters[waiter.request_id] = waiter
        if on_main:
            self.main.open_desk(waiter.accept)
        try:
            self.agent.request_checkpoint(waiter.request_id, waiter.body)
            return waiter.wait(self.agent)
        except KeyboardInterrupt:
            self._cancel(waiter.request_id)
            raise
        finally:
            if on_main:
                self.main.close_desk(waiter.accept)
            with self._lock:
                self._waiters.pop(waiter.request_id, None)

    def schedule(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Change when checkpoints are made by themselves; return the agent's answer.

        Raises `CheckpointFailed`; nothing is changed then.
        """
        answer: dict[str, Any] = self.agent.ask("PUT", "/schedule", changes,
                                                patience_s=RETURNS_WITHIN_S)
        self.cells.follow(answer, leave_out=1)  # the cell that asks is no work to save
        return answer

    def _cancel(self, request_id: str) -> None:
        try:
            self.agent.cancel(request_id)
        except CheckpointFailed:
            print("The checkpoint may still be made: %checkpoint --list shows it then.")

    # -- the agent's requests -------------------------------------------------------------

    def answer(self, op: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the agent; runs in the link's thread."""
        handler = {
            "ping": self._ping, "status": self._status, "running": self._running,
            "quiesce": self._quiesce, "resume": self._resume,
            "finished": self._finished, "restored": self._restored,
            "schedule": self._schedule,
        }.get(str(op.get("op")))
        if handler is None:
            return _no("protocol", f"Unknown request {op.get('op')!r}.")
        if isinstance(op.get("epoch"), int) and op["epoch"] < self.epoch:
            return _no("stale-epoch", f"This kernel is in epoch {self.epoch}.")
        return handler(op)

    def _ping(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "pid": os.getpid(), "epoch": self.epoch}

    def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, **self.journal.status()}

    def _running(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, **self.journal.running()}

    def _schedule(self, op: dict[str, Any]) -> dict[str, Any]:
        self.cells.follow(op)
        return {"ok": True}

    def _quiesce(self, op: dict[str, Any]) -> dict[str, Any]:
        request_id = str(op.get("request_id") or "")
        if self.silence.held_for is not None and self._answered[0] == f"quiesce {request_id}":
            return self._answered[1]
        seconds = float(op.get("deadline_s") or DEADLINE_S)
        deadline = Deadline(seconds)
        if not self.silence.hold(request_id, seconds):
            return _no("busy", "A connection of the kernel to its agent did not end in time.")
        try:
            answer = self._prepare(seconds, deadline)
        except Refusal as refusal:
            self._end_silence()
            return {"ok": False, "refused": str(refusal)}
        except BaseException:
            self._end_silence()
            raise
        self.signature.hold()
        self._ticks, self.link.ticking = 0, True
        self._answered = (f"quiesce {request_id}", answer)
        return answer

    def _prepare(self, seconds: float, deadline: Deadline) -> dict[str, Any]:
        warnings = self.on_checkpoint.run(self.main, seconds * 0.7)
        warnings += flush.flush_streams(self._shell.kernel, deadline.left_s(1.0) / 4)
        if self.history is not None:
            in_thread(self.history.hold, deadline.left_s(1.0))
        self.identity.remember()
        if self.journal.problem:
            warnings.append(f"Cell outputs are not followed: {self.journal.problem}.")
        return {"ok": True, "warnings": warnings, "status": self.journal.status(),
                "internal_ports": self.identity.internal_ports()}

    def _resume(self, op: dict[str, Any]) -> dict[str, Any]:
        self._end_silence_of(op)
        return {"ok": True}

    def _finished(self, op: dict[str, Any]) -> dict[str, Any]:
        self._end_silence_of(op)
        with self._lock:
            waiter = self._waiters.get(str(op.get("request_id")))
        if waiter is not None:
            waiter.finish(op.get("result"), op.get("error"))
        return {"ok": True, "woken": waiter is not None}

    def _restored(self, op: dict[str, Any]) -> dict[str, Any]:
        manifest = op.get("checkpoint") if isinstance(op.get("checkpoint"), dict) else {}
        key = f"restored {op.get('epoch')} {manifest.get('id')}"  # type: ignore[union-attr]
        if op.get("epoch") is not None and self._answered[0] == key:
            return self._answered[1]
        self.epoch = int(op.get("epoch") or self.epoch + 1)
        warnings = self.identity.renew(op) + self._move(op.get("runtime"))
        self.signature.release()
        if self.history is not None:
            in_thread(self.history.renew, DEADLINE_S)
        self._end_silence()
        try:
            seconds = float(op.get("deadline_s") or DEADLINE_S)
            warnings += self.on_restore.run(self.main, seconds * 0.7)
        except Refusal as refusal:
            warnings.append(f"An on_restore hook cannot refuse: {refusal}")
        told = [str(w) for w in op.get("warnings") or ()]
        with self._lock:
            waiters = list(self._waiters.values())
        for waiter in waiters:
            waiter.settle(Checkpoint(manifest or {}, restored=True, warnings=told + warnings))
        self._answered = (key, {"ok": True, "warnings": warnings, "woken": len(waiters)})
        return self._answered[1]

    # -- parts ----------------------------------------------------------------------------

    def _move(self, runtime: Any) -> list[str]:
        if not runtime:
            return []
        self.agent.runtime = str(runtime)
        try:
            self.link.move(str(runtime))
        except OSError as error:
            return [f"The kernel cannot listen in {runtime}: {error}."]
        return []

    def _end_silence_of(self, op: dict[str, Any]) -> None:
        # A late message about an earlier checkpoint must not open the gate of this one.
        if not op.get("request_id") or self.silence.held_for in (None, str(op["request_id"])):
            self._end_silence()

    def _end_silence(self) -> None:
        self.link.ticking = False
        self.signature.release()
        self.silence.release()
        if self.history is not None:
            in_thread(self.history.release, DEADLINE_S)

    def _count_tick(self) -> None:
        self._ticks += 1
        if self._ticks >= LIFT_AFTER_TICKS:
            self._end_silence()


def _check_types(name: object, note: object, pin: object) -> None:
    for what, text in (("name", name), ("note", note)):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{what} is a text or None, not {type(text).__name__}.")
    if not isinstance(pin, bool):
        raise TypeError(f"pin is True or False, not {type(pin).__name__}.")


def _no(message_id: str, message: str) -> dict[str, Any]:
    return {"ok": False, "error": {"id": message_id, "message": message}}
