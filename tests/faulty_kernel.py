"""A real kernel whose agents die, hang or meet errors where a test says."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from session_kit import Shell, Talker

from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.faults import VARIABLE
from jupyter_ckpt.record import Record, read_record


class Kernel:
    """A real kernel whose agents suffer what the plan says."""

    def __init__(self, shell: Shell, plan: Path) -> None:
        self.shell, self.plan = shell, plan
        shell.environment[VARIABLE] = str(plan)
        self.arm()
        started = shell.start()
        self.id: str = started["kernel_id"]
        self.talker = Talker(started["connection_file"])
        self.folder = shell.home / "runtime" / "ckpt" / self.id

    def arm(self, *faults: dict[str, Any]) -> None:
        """Let every agent suffer `faults` from now on, each once, and forget the trace."""
        for old in [*self.plan.glob("fired-*"), self.plan / "trace"]:
            old.unlink(missing_ok=True)
        fresh = self.plan / "plan.new"  # named when it is whole: agents read it at any moment
        fresh.write_text(json.dumps([{"program": "kernel_agent", **fault} for fault in faults]))
        fresh.rename(self.plan / "plan.json")

    def passed(self, point: str) -> int:
        with suppress(FileNotFoundError):
            return (self.plan / "trace").read_text().split().count(point)
        return 0

    def fired(self) -> int:
        return len(list(self.plan.glob("fired-*")))

    def record(self) -> Record:
        return read_record(self.folder)

    def new_agent(self) -> AgentClient:
        """Kill the agent and return the client of the next one."""
        agent = self.record().agent
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        while agent.is_alive():
            pass
        self.shell.ckpt("ps")
        return AgentClient(self.folder)

    def ids(self) -> list[str]:
        return [m["id"] for m in self.shell.ckpt("list")]
