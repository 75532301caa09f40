"""Automatic checkpoints of real kernels: by time, by cells, and after everything dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inkernel_harness import until
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.agent.retention import SAFETY_KEPT
from jupyter_ckpt.record import read_record


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        yield shell


class Session:
    """A kernel with a front end, and its automatic checkpoints."""

    def __init__(self, shell: Shell, started: dict[str, Any]) -> None:
        self.shell, self.id = shell, str(started["kernel_id"])
        self.talker = Talker(started["connection_file"])

    @property
    def folder(self) -> Path:
        return self.shell.home / "runtime" / "ckpt" / self.id

    def schedule(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = self.shell.ckpt("schedule", self.id, *words)
        return found

    def last_automatic(self) -> dict[str, Any]:
        """Return how the last save went; noted just after its checkpoint is visible."""
        return until(lambda: self.schedule()["last_automatic"], "how it went is noted")

    def automatic(self, trigger: str) -> list[dict[str, Any]]:
        return [m for m in self.shell.ckpt("list", self.id) if m["trigger"] == trigger]

    def listed(self) -> set[str]:
        return {m["id"] for m in self.shell.ckpt("list", self.id)}

    def wait_for(self, trigger: str, beside: int = 0) -> dict[str, Any]:
        """Return the newest checkpoint of this trigger once there are more than `beside`."""
        until(lambda: len(self.automatic(trigger)) > beside, f"a checkpoint by {trigger}")
        return self.automatic(trigger)[0]

    def end(self) -> None:
        self.talker.close()
        self.shell.ckpt("stop", self.id)


@pytest.fixture
def session(shell: Shell) -> Iterator[Session]:
    session = Session(shell, shell.start())
    yield session
    session.end()


def test_saved_by_time_in_the_middle_of_a_cell(session: Session) -> None:
    assert session.schedule("--every", "5s")["every_s"] == 5
    flag = session.shell.home / "go-on"
    cell = session.talker.begin(
        f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(.05)\nprint('end')")
    saved = session.wait_for("interval")
    assert saved["kernel"]["busy"] is True
    assert saved["name"] is None
    flag.touch()
    session.talker.collect(cell, lambda text: "end" in text)
    flag.unlink()
    last = session.last_automatic()
    assert last["id"] in {m["id"] for m in session.automatic("interval")}
    assert last["error"] is None
    assert session.schedule("--off")["next_due_s"] is None


def test_saved_after_cells_and_only_the_last_few_stay(session: Session) -> None:
    said = session.talker.run("%checkpoint --cells 2 --keep 1")
    assert said == "Automatic checkpoints after every 2 cells; the last 1 are kept."
    by_hand = session.shell.ckpt("save", session.id)["id"]
    session.talker.run("x = 1")
    session.talker.run("x = 2")
    first = session.wait_for("cell")["id"]
    session.talker.run("x = 3")
    session.talker.run("x = 4")
    until(lambda: first not in {m["id"] for m in session.automatic("cell")}, "the old one is gone")
    assert len(session.automatic("cell")) == 1
    assert by_hand in {m["id"] for m in session.shell.ckpt("list", session.id)}
    assert session.shell.ckpt("verify")["bad"] == []


def test_next_agent_goes_on_with_the_schedule(session: Session) -> None:
    session.schedule("--every", "1h", "--cells", "1")
    session.talker.run("x = 1")
    session.wait_for("cell")
    last = session.last_automatic()
    agent = read_record(session.folder).agent
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)
    until(lambda: not agent.is_alive(), "the agent is dead")
    assert session.talker.run("print('unharmed')") == "unharmed"
    found = session.schedule()  # whoever asks first starts the next agent
    assert (found["every_s"], found["cells"]) == (3600, 1)
    assert 0 < found["next_due_s"] <= 3600
    assert found["last_automatic"] == last
    assert last["error"] is None
    assert read_record(session.folder).agent != agent
    before = len(session.automatic("cell"))
    session.talker.run("x = 2")
    session.wait_for("cell", beside=before)


def test_restored_kernel_has_the_schedule_of_its_checkpoint(shell: Shell) -> None:
    first = Session(shell, shell.start())
    first.schedule("--every", "2h", "--cells", "1", "--keep", "3")
    first.talker.run("x = 'kept'")
    saved = first.wait_for("cell")["id"]
    first.end()
    second = Session(shell, shell.ckpt("restore", saved, "--no-server"))
    found = second.schedule()
    assert (found["every_s"], found["cells"], found["keep"]) == (7200, 1, 3)
    assert second.talker.run("print(x)") == "kept"
    before = {m["id"] for m in second.automatic("cell")}
    second.talker.run("x = 'more'")
    until(lambda: {m["id"] for m in second.automatic("cell")} - before, "counted on")
    second.schedule("--cells", "500", "--keep", "4")
    shell.ckpt("restore", saved, "--in-place", "--no-server")
    second.talker.wait_until_ready()
    found = second.schedule()
    assert (found["every_s"], found["cells"], found["keep"]) == (7200, 500, 4)
    second.end()


def test_copies_made_for_safety_are_tidied_without_a_schedule(session: Session) -> None:
    saved = session.shell.ckpt("save", session.id)["id"]
    made = []
    for _ in range(SAFETY_KEPT + 1):
        session.shell.ckpt("restore", saved, "--in-place", "--no-server")
        made.append(session.shell.ckpt("list", session.id)[0])
    assert {m["purpose"] for m in made} == {"before-restore"}
    until(lambda: made[0]["id"] not in session.listed(), "the oldest one is gone")
    assert {saved, *(m["id"] for m in made[1:])} <= session.listed()


def test_refused_save_is_kept_in_mind_and_told_once(session: Session) -> None:
    session.talker.run("ip = get_ipython()\n"
                       "def no(): raise ip.CheckpointRefused('a transaction is open')\n"
                       "ip.on_checkpoint(no)")
    session.talker.run("%checkpoint --cells 1")
    session.talker.run("x = 1")
    last = until(lambda: session.schedule()["last_automatic"], "a save was tried")
    assert (last["id"], last["error"]["id"]) == (None, "refused-by-hook")
    assert session.automatic("cell") == []
    told = "The last automatic checkpoint failed: A hook refused"
    session.talker.run("%checkpoint --cells 500")
    assert told in session.talker.run("%checkpoint --list")
    assert told not in session.talker.run("%checkpoint --list")
    assert session.talker.run("%checkpoint --off") == "No automatic checkpoints."
