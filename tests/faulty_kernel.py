"""A real kernel whose agents die, hang or meet errors where a test says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from fault_plan import FaultPlan
from session_kit import Shell, Talker

from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.record import Record, read_record


class Kernel:
    """A real kernel whose agents suffer what the plan says."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        """Start one in `shell`; its plan lies in `folder`."""
        self.shell, self.plan = shell, FaultPlan(folder)
        shell.environment.update(self.plan.environment)
        self.arm()
        started = shell.start()
        self.id: str = started["kernel_id"]
        self.talker = Talker(started["connection_file"])
        self.folder = shell.home / "runtime" / "ckpt" / self.id

    def arm(self, *faults: dict[str, Any]) -> None:
        """Let every agent suffer `faults` from now on, each once, and forget the trace."""
        self.plan.arm(*({"program": "kernel_agent", **fault} for fault in faults))

    def passed(self, point: str) -> int:
        return self.plan.passed(point)

    def fired(self) -> int:
        return self.plan.times_fired()

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
