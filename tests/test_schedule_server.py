"""Schedules and the server: an agent that died is started anew."""

from __future__ import annotations

import os
import signal
from typing import Any

from jupyter_harness import Home, StartServer, wait_until

from jupyter_ckpt.procfs import ProcessId

pytest_plugins = ["jupyter_fixtures"]


def test_schedule_goes_on_after_its_agent_was_killed(real_home: Home, start: StartServer) -> None:
    real_home.configure("c.CheckpointApp.agent_check_s = 0.2\nc.CheckpointApp.keep = 3\n")
    server = start(real_home)
    scheduled, other = (server.ok("POST", "/api/kernels", {})["id"] for _ in range(2))
    path = f"/api/ckpt/kernels/{scheduled}/schedule"
    server.ok("PUT", path, {"every": "1h", "cells": 3})
    server.connect(scheduled).run("x = 1")
    server.save(scheduled)
    killed = {kernel_id: agent_of(real_home, kernel_id) for kernel_id in (other, scheduled)}
    for agent in killed.values():
        os.kill(agent.pid, signal.SIGKILL)

    def has_another() -> bool:
        agent = agent_of(real_home, scheduled)
        return agent != killed[scheduled] and agent.is_alive()

    wait_until(has_another, what="another agent")
    assert agent_of(real_home, other) == killed[other]  # nobody needs it now
    record = real_home.record(scheduled)
    assert record is not None
    assert record["mark"]["cells"] == 1  # or the idle kernel would be saved once more
    found: dict[str, Any] = server.ok("GET", path)
    assert (found["every_s"], found["cells"], found["keep"]) == (3600, 3, 3)
    assert server.connect(scheduled).run("print(6 * 7)") == "42"


def agent_of(home: Home, kernel_id: str) -> ProcessId:
    record = home.record(kernel_id)
    assert record is not None
    agent = ProcessId.from_dict(record["agent"])
    assert agent is not None
    return agent
