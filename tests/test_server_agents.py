"""Agents and the server: what they do by themselves is told, and none stays dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from jupyter_harness import Events, Home, StartServer, wait_until

from jupyter_ckpt.procfs import ProcessId

pytest_plugins = ["jupyter_fixtures"]


def test_schedule_goes_on_after_its_agent_was_killed(real_home: Home, start: StartServer) -> None:
    real_home.configure("c.CheckpointApp.keep = 3\n")
    server = start(real_home)
    scheduled = server.ok("POST", "/api/kernels", {})["id"]
    path = f"/api/ckpt/kernels/{scheduled}/schedule"
    server.ok("PUT", path, {"every": "1h", "cells": 3})
    server.connect(scheduled).run("x = 1")
    server.save(scheduled)
    kill_agent(real_home, scheduled)
    record = real_home.record(scheduled)
    assert record is not None
    assert record["mark"]["cells"] == 1  # or the idle kernel would be saved once more
    found: dict[str, Any] = server.ok("GET", path)
    assert (found["every_s"], found["cells"], found["keep"]) == (3600, 3, 3)
    assert server.connect(scheduled).run("print(6 * 7)") == "42"


def test_checkpoint_magic_works_after_its_agent_was_killed(
    real_home: Home, start: StartServer
) -> None:
    server = start(real_home)
    kernel_id = server.ok("POST", "/api/kernels", {})["id"]
    channel = server.connect(kernel_id)
    channel.run("x = 1")
    os.kill(agent_of(real_home, kernel_id).pid, signal.SIGKILL)
    channel.run("%checkpoint after the death")
    found = server.ok("GET", "/api/ckpt/checkpoints")
    assert [one["name"] for one in found] == ["after the death"]


def test_saves_that_others_ask_for_are_told_as_events(real_home: Home, start: StartServer) -> None:
    server = start(real_home)
    kernel_id = server.ok("POST", "/api/kernels", {})["id"]
    events = Events(server)
    channel = server.connect(kernel_id)
    channel.run("%checkpoint by the magic")
    assert events.phases("save", "succeeded")[0] == "started"
    by_magic = events.last("save", "succeeded")
    assert by_magic["kernel_id"] == kernel_id

    subprocess.run([sys.executable, "-m", "jupyter_ckpt.cli.main", "save", kernel_id], check=True,
                   env=real_home.env, capture_output=True)
    server.ok("PUT", f"/api/ckpt/kernels/{kernel_id}/schedule", {"cells": 1})
    channel.run("x = 2")
    wait_until(lambda: len(ended(events)) >= 3, what="three saves told")
    server.save(kernel_id)  # told by the server, and not once more by the agent
    wait_until(lambda: len(ended(events)) >= 4, what="four saves told")
    ids = [event["checkpoint_id"] for event in ended(events)]
    assert sorted(ids) == sorted(m["id"] for m in server.ok("GET", "/api/ckpt/checkpoints"))


def test_kernel_that_was_started_without_the_server_is_listened_to(
    real_home: Home, start: StartServer
) -> None:
    real_home.configure("c.CheckpointApp.agent_check_s = 0.2\n")
    server = start(real_home)
    events = Events(server)
    for verb in (["start"], ["save", "--name", "headless"]):
        subprocess.run([sys.executable, "-m", "jupyter_ckpt.cli.main", *verb], check=True,
                       env=real_home.env, capture_output=True)
    (record,) = real_home.records()
    kill_agent(real_home, record["kernel_id"])
    wait_until(lambda: real_home.record(record["kernel_id"]) is not None)
    subprocess.run([sys.executable, "-m", "jupyter_ckpt.cli.main", "save"], check=True,
                   env=real_home.env, capture_output=True)
    assert events.last("save", "succeeded")["kernel_id"] == record["kernel_id"]


def ended(events: Events) -> list[dict[str, Any]]:
    return [one for one in events.seen
            if (one["action"], one["phase"]) == ("save", "succeeded")]


def kill_agent(home: Home, kernel_id: str) -> None:
    """Kill a kernel's agent and wait until it has another."""
    killed = agent_of(home, kernel_id)
    os.kill(killed.pid, signal.SIGKILL)

    def has_another() -> bool:
        agent = agent_of(home, kernel_id)
        return agent != killed and agent.is_alive()

    wait_until(has_another, what="another agent")


def agent_of(home: Home, kernel_id: str) -> ProcessId:
    record = home.record(kernel_id)
    assert record is not None
    agent = ProcessId.from_dict(record["agent"])
    assert agent is not None
    return agent
