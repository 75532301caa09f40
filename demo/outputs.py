"""What one run of a cell puts out, kept as a notebook document keeps it."""

from __future__ import annotations

import threading
from typing import Any

OUTPUT_TYPES = ("stream", "display_data", "execute_result", "error")


class Execution:
    """One execute request and what came of it; a thread may wait for its end."""

    def __init__(self, msg_id: str) -> None:
        self.msg_id = msg_id
        self.outputs: list[dict[str, Any]] = []
        self.count: int | None = None
        self.done = threading.Event()
        self._held: list[dict[str, Any]] | None = None
        self._lock = threading.Lock()

    @property
    def text(self) -> str:
        """Return all that was printed, and the result."""
        with self._lock:
            return "".join(_text_of(output) for output in self.outputs)

    @property
    def result(self) -> str | None:
        """Return the value of the last expression as text, None when there is none."""
        with self._lock:
            found = [_text_of(o) for o in self.outputs if o["output_type"] == "execute_result"]
        return found[-1] if found else None

    def hold(self) -> None:
        """Keep messages back until `adopt` says what came before them."""
        self._held = []

    def adopt(self, journal: dict[str, Any], finished: bool) -> None:
        """Take the kernel's own journal of this run as what was shown so far.

        Messages that were held and are not in it follow; those that are in it
        are not shown twice.
        """
        with self._lock:
            held, self._held = self._held or [], None
            self.outputs = [dict(output) for output in journal["outputs"]]
            self.count = journal.get("execution_count")
        known = set(journal.get("message_ids", ()))
        for message in () if finished else held:
            if message["header"]["msg_id"] not in known:
                self.add(message)
        if finished:
            self.done.set()

    def add(self, message: dict[str, Any]) -> None:
        """Take a message of the kernel in."""
        with self._lock:
            if self._held is not None:
                self._held.append(message)
                return
            kind, content = message["header"]["msg_type"], message["content"]
            if kind in OUTPUT_TYPES:
                self._show(kind, content)
            elif kind in ("execute_input", "execute_reply"):
                self.count = content.get("execution_count", self.count)
            # The end is told on the same channel as the outputs, so nothing follows.
            elif kind == "status" and content["execution_state"] == "idle":
                self.done.set()

    def _show(self, kind: str, content: dict[str, Any]) -> None:
        last = self.outputs[-1] if self.outputs else None
        if kind == "stream" and last is not None and last["output_type"] == "stream" and (
                last["name"] == content["name"]):
            last["text"] += content["text"]
            return
        kept = {name: value for name, value in content.items() if name != "transient"}
        self.outputs.append({"output_type": kind, **kept})


def _text_of(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    if output["output_type"] == "execute_result":
        return str(output["data"].get("text/plain", ""))
    return ""
