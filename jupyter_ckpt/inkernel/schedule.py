"""Counting cells for automatic checkpoints, and what a user is told about them."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any

from .agentclient import AgentClient
from .failures import CheckpointFailed
from .mainthread import hide_from_debugger

ASK_WITHIN_S = 60.0


class CellCount:
    """Asks the agent for a checkpoint whenever so many cells have been run."""

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._since = 0
        self.limit: int | None = None
        """After how many cells a checkpoint is asked for; None: never."""
        self.scheduled = False
        """Whether there is any schedule, by cells or by time."""

    def follow(self, told: dict[str, Any], leave_out: int = 0) -> None:
        """Take over what the agent says; `leave_out` cells from now on do not count."""
        cells = told.get("cells")
        limit = cells if type(cells) is int and cells > 0 else None
        with self._lock:
            if limit != self.limit:
                self._since = -leave_out
            self.limit = limit
            self.scheduled = bool(told.get("scheduled", limit or told.get("every_s")))

    def cell_ended(self) -> None:
        """Count a cell; called on its thread, so that nothing here may wait."""
        if self.limit is None or os.getpid() != self._pid:
            return
        with self._lock:
            self._since += 1
            if self.limit is None or self._since < self.limit:
                return
            self._since = 0
        thread = threading.Thread(target=self._ask, name="jupyter_ckpt_cells", daemon=True)
        hide_from_debugger(thread)
        # Without room for a thread there is none for a checkpoint: the cell has ended well.
        with contextlib.suppress(RuntimeError):
            thread.start()

    def _ask(self) -> None:
        try:
            answer = self._agent.ask("POST", "/cells", {}, wait_s=ASK_WITHIN_S)
        except CheckpointFailed:
            return  # the next cells ask again, and %checkpoint says what is wrong
        if isinstance(answer, dict):
            cells = answer.get("cells")
            self.follow({"cells": cells, "scheduled": self.scheduled})


class FailureNews:
    """The failure of an automatic checkpoint, told to the user once."""

    def __init__(self, agent: AgentClient) -> None:
        self._agent = agent
        self._told_at: Any = None

    def sentence(self) -> str:
        """Return what to tell now, '' for nothing; an agent that is gone is nothing here."""
        try:
            answer = self._agent.ask("GET", "/schedule", wait_s=0) or {}
        except CheckpointFailed:
            return ""
        last = answer.get("last_automatic") or {}
        error = last.get("error")
        if not error or last.get("at") == self._told_at:
            return ""
        self._told_at = last.get("at")
        return f"The last automatic checkpoint failed: {error.get('message', '')}"


def sentence(schedule: dict[str, Any]) -> str:
    """Return one line about the schedule that the agent answered."""
    parts = []
    if schedule.get("every_s") is not None:
        parts.append(f"every {span_text(float(schedule['every_s']))}")
    if schedule.get("cells") is not None:
        count = schedule["cells"]
        parts.append("after every cell" if count == 1 else f"after every {count} cells")
    if not parts:
        return "No automatic checkpoints."
    kept = f"the last {schedule.get('keep')} are kept"
    older = [f"{count} {unit}{'s' if count > 1 else ''}"
             for unit, name in (("hour", "keep_hourly"), ("day", "keep_daily"))
             if (count := schedule.get(name))]
    if older:
        kept += f", and the newest of each of the last {' and '.join(older)}"
    return f"Automatic checkpoints {' and '.join(parts)}; {kept}."


def span_text(span_s: float) -> str:
    """Return a span of time in the largest unit that is exact: 10m, 90s."""
    for unit, unit_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if span_s >= unit_s and span_s % unit_s == 0:
            return f"{span_s / unit_s:.0f}{unit}"
    return f"{span_s:g}s"
