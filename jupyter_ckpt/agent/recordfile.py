"""The record of an agent's kernel on disk: written by the one agent that has the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import AgentUnreachable
from ..record import RECORD_NAME, Record, read_record, write_record


class RecordFile:
    """``record.json`` in the runtime folder `folder`, as one agent may use it.

    Everything an agent writes or removes there goes through here: an agent
    whose lock file was replaced (see `agent_place`) changes nothing any more.
    """

    def __init__(self, folder: Path, has_place: Callable[[], bool] = lambda: True,
                 on_lost: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self.has_place = has_place
        """Tells whether this still is the agent of the folder."""
        self._on_lost = on_lost

    def check_place(self) -> None:
        """Raise `AgentUnreachable`, and tell so, when another agent has taken our place."""
        if self.has_place():
            return
        self._on_lost()
        raise AgentUnreachable(
            f"This agent of kernel {self.folder.name} was replaced by another one and ends.",
            "Ask again: the other one answers.")

    def read(self) -> Record:
        """Return the record; raises as `read_record` does."""
        return read_record(self.folder)

    def write(self, record: Record) -> None:
        """Write `record`, by rename; raise `AgentUnreachable` when the place is another's."""
        self.check_place()
        write_record(self.folder, record)

    def remove(self) -> None:
        """Remove the record, unless it is another agent's by now."""
        if self.has_place():
            (self.folder / RECORD_NAME).unlink(missing_ok=True)
