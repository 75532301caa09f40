"""Schedules of a user without any privilege: one session, everything once."""

from __future__ import annotations

import json
import os
import signal

from inkernel_harness import until
from session_kit import Talker, shell_in

from jupyter_ckpt.plan import SAVE_BELOW_VARIABLE
from jupyter_ckpt.procfs import ProcessId


def test_schedule_of_an_ordinary_user() -> None:
    with shell_in("rootless") as shell:
        shell.environment[SAVE_BELOW_VARIABLE] = "100%"
        started = shell.start()
        kernel_id = started["kernel_id"]
        talker = Talker(started["connection_file"])

        def ids(reason: str) -> list[str]:
            return [m["id"] for m in shell.ckpt("list", kernel_id)
                    if reason == (m["purpose"] or m["trigger"])]

        # Memory is "short" from the beginning: saved as soon as there is a schedule.
        talker.run("x = [1]")
        shell.ckpt("schedule", kernel_id, "--cells", "1", "--keep", "2")
        until(lambda: ids("pressure"), "a checkpoint for want of memory")

        # By cells, and only the last two stay.
        for number in range(2):
            def saved(number: int = number) -> bool:
                talker.run(f"x.append({number})")
                return len(ids("cell")) > number

            until(saved, "a checkpoint by cells")
        until(lambda: not ids("pressure"), "the old one is gone")

        # In the middle of a cell, by time, by an agent that took over from a killed one.
        shell.ckpt("schedule", kernel_id, "--every", "5s", "--cells", "500")
        # Not by read_record, which trusts nobody else's records: the test may run as root.
        file = shell.home / "runtime" / "ckpt" / kernel_id / "record.json"
        agent = ProcessId.from_dict(json.loads(file.read_text())["agent"])
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
        until(lambda: not agent.is_alive(), "the agent is dead")
        talker.begin("import time\nwhile True: time.sleep(.01)")
        assert shell.ckpt("schedule", kernel_id)["every_s"] == 5
        saved = until(lambda: ids("interval"), "a checkpoint by time")[0]

        talker.close()
        shell.ckpt("stop", kernel_id)
        restored = shell.ckpt("restore", saved, "--no-server")
        found = shell.ckpt("schedule", restored["kernel_id"])
        assert (found["every_s"], found["cells"], found["keep"]) == (5, 500, 2)
        assert shell.ckpt("verify")["bad"] == []
