"""The question this project began with: what happens when the coordinator dies?

In DMTCP an idle shell dies with its coordinator. Here the server (coordinator)
and the agent are killed with -9, idle and at every phase of a checkpoint, and
the same kernel goes on through all of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from checkpointable import need_checkpoints
from fault_plan import FaultPlan
from jupyter_harness import Home, Server, wait_until

from jupyter_ckpt.procfs import ProcessId, stat_fields
from jupyter_ckpt.store import Store

GOES_ON_WITHIN_S = 10.0
PHASES = ("idle", "save.quiesced", "save.frozen", "save.thawed",
          "store.manifest-written", "save.stored")

BEGIN = """
import subprocess, sys, threading, time
beats = 0
def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.01)
threading.Thread(target=beat, daemon=True).start()
child = subprocess.Popen([sys.executable, "-uc", "for line in iter(input, None): print(line)"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
kept = 41
print("begun")
"""
ASK_CHILD = """
child.stdin.write("hello\\n"); child.stdin.flush()
print(child.stdout.readline().strip(), kept, beats)
"""


class Life:
    """One kernel that lives through every case, and whatever server shows it just now."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.plan = FaultPlan(folder / "plan")
        self.home.env.update(self.plan.environment)
        self.server = Server(self.home)
        self.kernel_id = str(self.server.open_session("a.ipynb")["kernel"]["id"])
        assert self.run(BEGIN) == "begun"
        self.kernel = self.identity("kernel")

    @property
    def store(self) -> Store:
        return Store.open(self.home.folder / "data" / "ckpt")

    def checkpoints(self) -> list[str]:
        """Return the ids of what is visible, newest first."""
        return [manifest.id for manifest in self.store.manifests()]

    def identity(self, who: str) -> ProcessId:
        found = ProcessId.from_dict((self.home.record(self.kernel_id) or {}).get(who))
        assert found is not None
        return found

    def run(self, code: str) -> str:
        channel = self.server.connect(self.kernel_id)
        with contextlib.closing(channel):
            return channel.run(code)

    def beats(self) -> int:
        return int(self.run("print(beats)"))

    def victim(self, who: str) -> ProcessId:
        """Return the server or the agent as they are now."""
        if who == "agent":
            self.server.ok("GET", "/api/ckpt/kernels")  # starts the one that is missing
            return self.identity("agent")
        found = ProcessId.of(self.server.process.pid)
        assert found is not None
        return found

    def kill_at(self, phase: str, victim: ProcessId) -> None:
        """Kill `victim`: now when idle, else when a save comes to `phase`."""
        if phase == "idle":
            os.kill(victim.pid, signal.SIGKILL)
        else:
            self.plan.arm({"point": phase, "act": "kill", "victim": victim.pid})
            # Nobody may be left to answer.
            with contextlib.suppress(requests.ConnectionError):
                self.server.request("POST", f"/api/ckpt/kernels/{self.kernel_id}/checkpoints", {})
        wait_until(lambda: not victim.is_alive(), 30, f"{victim} is dead")

    def serve_again(self) -> None:
        """Start the next server, as its user would."""
        self.server.process.wait()
        self.server = Server(self.home)

    def end(self) -> None:
        self.server.stop()
        self.home.end_all_kernels()


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    need_checkpoints()
    found = Life(tmp_path_factory.mktemp("seed"))
    yield found
    found.end()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("who", ["server", "agent"])
def test_the_session_goes_on_whoever_dies(life: Life, who: str, phase: str) -> None:
    before, checkpoints = life.beats(), life.checkpoints()
    life.kill_at(phase, life.victim(who))

    # The kernel is the same process, runs, and nothing in it stands still.
    assert life.kernel.is_alive()
    wait_until(lambda: is_running(life.kernel.pid), GOES_ON_WITHIN_S, "the tree is thawed")
    if who == "server":
        life.serve_again()
    assert life.identity("kernel") == life.kernel
    assert life.beats() > before
    assert life.run(ASK_CHILD).startswith("hello 41 ")

    # The checkpoint that was being made is made, once; and so is the next.
    life.plan.arm()
    made = 0 if phase == "idle" else 1
    wait_until(lambda: len(life.checkpoints()) == len(checkpoints) + made, 30, "it is made")
    job = life.server.save(life.kernel_id)
    assert job["state"] == "done", job["error"]
    assert life.store.verify()["bad"] == []
    assert life.checkpoints()[0] == job["result"]["id"]
    assert len(life.checkpoints()) == len(checkpoints) + made + 1


def is_running(pid: int) -> bool:
    """Tell whether a process is neither stopped nor held by a tracer."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "Tt"
