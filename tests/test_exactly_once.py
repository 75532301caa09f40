"""A request is carried out exactly once, whatever dies or is lost on the way."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faulty_kernel import Kernel
from jupyter_harness import wait_until
from session_kit import Talker, shell_in

from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.delivery import TRIES, deliver
from jupyter_ckpt.errors import AgentUnreachable, JobNotFound, StaleEpoch
from jupyter_ckpt.offers import ENDED_NAME
from jupyter_ckpt.protocol import checkpoint_id
from jupyter_ckpt.record import next_epoch


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        plan = shell.home / "plan"
        plan.mkdir()
        plan.chmod(0o777)
        found = Kernel(shell, plan)
        found.talker.run("import time; kept = 'kept'")
        yield found
        found.arm()
        found.talker.close()


# -- agents that die ---------------------------------------------------------------


@pytest.mark.parametrize("point", [
    "save.begun", "save.quiesced", "save.frozen", "save.dumped", "save.thawed",
    "store.manifest-written", "store.manifest-named", "save.stored", "save.recorded"])
def test_save_whose_agent_is_killed_anywhere_makes_one_checkpoint(
    kernel: Kernel, point: str
) -> None:
    before = kernel.ids()
    kernel.arm({"point": point, "act": "kill"})
    saved = kernel.shell.ckpt("save", kernel.id)
    assert kernel.fired() == 1
    assert kernel.ids() == [saved["id"], *before]
    assert kernel.record().parent == saved["id"]
    assert kernel.talker.run("print(kept)") == "kept"


def test_checkpoint_of_a_kernel_that_dies_while_it_is_stored_comes_back(kernel: Kernel) -> None:
    dying = Kernel(kernel.shell, kernel.plan.folder)
    dying.talker.run("kept = 'until the end'")
    process = dying.record().kernel
    assert process is not None
    dying.arm({"point": "save.thawed", "act": "kill", "victim": process.pid},
              {"point": "store.begun", "act": "hang"})
    saved: list[dict[str, Any]] = []
    saving = threading.Thread(target=lambda: saved.append(kernel.shell.ckpt("save", dying.id)))
    saving.start()
    wait_until(lambda: dying.fired() == 2 and (dying.folder / ENDED_NAME).exists(),
               what="the kernel's end is noted while it is stored")
    dying.arm()
    saving.join()
    dying.talker.close()

    restored = kernel.shell.ckpt("restore", saved[0]["id"], "--no-server")
    assert restored["warnings"] == []
    talker = Talker(restored["connection_file"])
    assert talker.run("print(kept)") == "until the end"
    talker.close()
    kernel.shell.ckpt("stop", dying.id)
    kernel.shell.ckpt("rm", saved[0]["id"])


def test_save_is_told_to_have_failed_when_every_agent_dies(kernel: Kernel) -> None:
    before = kernel.ids()
    kernel.arm(*[{"point": "save.frozen", "act": "kill"}] * TRIES)
    code, error = kernel.shell.refused("save", kernel.id)
    assert (code, error["id"]) == (5, "dump-failed")
    assert kernel.fired() == TRIES
    kernel.arm()
    kernel.shell.ckpt("ps")  # starts an agent again
    assert kernel.ids() == before
    assert kernel.talker.run("print(kept)") == "kept"


def test_new_agent_answers_what_the_dead_one_finished_without_dumping(kernel: Kernel) -> None:
    agent = AgentClient(kernel.folder)
    done = agent.act("checkpoints", {}, request_id="asked-before")
    assert done["id"] == checkpoint_id(kernel.id, "asked-before")
    kernel.arm()
    again = kernel.new_agent()
    assert again.job("checkpoints", "asked-before").result == done
    assert again.act("checkpoints", {"name": "another body"}, request_id="asked-before") == done
    assert kernel.passed("save.begun") == 0
    with pytest.raises(JobNotFound):
        again.job("checkpoints", "never-asked-for")


def test_new_agent_finds_what_was_saved_into_another_store(kernel: Kernel) -> None:
    elsewhere = str(kernel.shell.home / "elsewhere")
    body = {"store": elsewhere}
    done = AgentClient(kernel.folder).act("checkpoints", body, request_id="elsewhere-1")
    again = kernel.new_agent()
    with pytest.raises(JobNotFound):
        again.job("checkpoints", "elsewhere-1")
    assert again.job("checkpoints", "elsewhere-1", elsewhere).result == done
    assert again.act("checkpoints", body, request_id="elsewhere-1") == done


@pytest.mark.parametrize("point", [
    "restore.unpacked", "restore.saved", "restore.marked", "restore.stopped", "restore.running",
    "restore.told", "restore.recorded"])
def test_restore_in_place_whose_agent_is_killed_anywhere_is_done_once(
    kernel: Kernel, point: str
) -> None:
    kernel.talker.run("since = 'before'")
    saved = kernel.shell.ckpt("save", kernel.id)
    kernel.talker.run("since = 'after'")
    kernel.arm({"point": point, "act": "kill"})
    restored = kernel.shell.ckpt("restore", saved["id"], "--in-place", "--no-server")
    assert kernel.fired() == 1
    assert kernel.passed("restore.recorded") == (2 if kernel_was_stopped(point) else 1)
    record = kernel.record()
    assert (restored["kernel_id"], record.parent) == (kernel.id, saved["id"])
    kernel.talker.wait_until_ready()
    assert kernel.talker.run("print(since)") == "before"
    assert len(kernel.shell.ckpt("ps")) == 1


def kernel_was_stopped(point: str) -> bool:
    """Tell whether a death at `point` means that the old state has to be brought back first."""
    return point in ("restore.stopped", "restore.running", "restore.told")


@pytest.mark.parametrize("point", ["restore.boxed", "restore.running", "restore.recorded"])
def test_restore_as_a_new_kernel_whose_agent_is_killed_is_done_once(
    kernel: Kernel, point: str
) -> None:
    saved = kernel.shell.ckpt("save", kernel.id)
    kernel.arm({"point": point, "act": "kill"})
    restored = kernel.shell.ckpt("restore", saved["id"], "--new", "--no-server")
    assert kernel.fired() == 1
    assert {r["kernel_id"] for r in kernel.shell.ckpt("ps")} == {kernel.id, restored["kernel_id"]}
    twin = Talker(restored["connection_file"])
    assert twin.run("print(kept)") == "kept"
    twin.close()
    kernel.shell.ckpt("stop", restored["kernel_id"])


def test_repeated_restore_is_answered_by_a_new_agent_without_restoring(kernel: Kernel) -> None:
    saved = kernel.shell.ckpt("save", kernel.id)
    body = {"checkpoint": saved["id"], "connection_file": kernel.record().connection_file}
    done = AgentClient(kernel.folder).act("restores", body, request_id="restore-once")
    kernel.arm()
    again = kernel.new_agent()
    assert again.job("restores", "restore-once").result == done
    assert again.act("restores", body, request_id="restore-once") == done
    assert kernel.passed("restore.begun") == 0
    kernel.talker.wait_until_ready()


@pytest.mark.parametrize("point", ["launch.boxed", "launch.started", "launch.recorded"])
def test_launch_whose_agent_is_killed_starts_one_kernel(kernel: Kernel, point: str) -> None:
    kernel.arm({"point": point, "act": "kill"})
    started = kernel.shell.start()
    assert kernel.fired() == 1
    assert {r["kernel_id"] for r in kernel.shell.ckpt("ps")} == {kernel.id, started["kernel_id"]}
    kernel.shell.ckpt("stop", started["kernel_id"])


# -- epochs ---------------------------------------------------------------------------


def test_request_for_an_older_incarnation_is_refused_with_its_reason(kernel: Kernel) -> None:
    saved = kernel.shell.ckpt("save", kernel.id)
    old = kernel.record().epoch
    kernel.shell.ckpt("restore", saved["id"], "--in-place", "--no-server")
    kernel.talker.wait_until_ready()
    now = kernel.record().epoch
    assert now > old
    agent = AgentClient(kernel.folder)
    for path in ("/interrupt", "/signal", "/shutdown", "/session"):
        with pytest.raises(StaleEpoch, match="restored meanwhile"):
            agent.request("POST", path, {"epoch": old, "signal": 9})
    for kind, epoch in (("checkpoints", old), ("restores", old), ("checkpoints", now + 1)):
        with pytest.raises(StaleEpoch):
            agent.act(kind, {"epoch": epoch, "checkpoint": saved["id"]})
    with pytest.raises(StaleEpoch):
        agent.schedule({"epoch": old, "every_s": 60})
    assert agent.act("checkpoints", {"epoch": now})["id"]
    assert kernel.talker.run("print(kept)") == "kept"


def test_every_restored_kernel_has_a_higher_epoch_than_any_before(tmp_path: Path) -> None:
    given = [next_epoch(tmp_path, known) for known in (1, 1, 7, 2)]
    assert given == sorted(set(given))
    assert given[2] > 7


# -- messages that are lost, doubled, late ---------------------------------------------


class Line:
    """A socket between a client and an agent that treats messages as `fates` say.

    One fate for each request, then all pass: ``pass``, ``drop`` (the request is
    lost), ``mute`` (its answer is), ``double``, ``late`` (it arrives after the next one).
    """

    def __init__(self, agent: Path, fates: list[str]) -> None:
        self._top = tempfile.TemporaryDirectory(prefix="line-", dir="/var/tmp")  # short
        self.folder = Path(self._top.name)
        self._agent, self._fates = agent, fates
        self._held: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / "agent.sock"))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                with line, suppress(OSError):
                    self._treat(line, self._fates.pop(0) if self._fates else "pass")

    def _treat(self, line: socket.socket, fate: str) -> None:
        request = read_request(line)
        if fate == "late":
            self._held.append(request)
        if fate in ("drop", "late"):
            return
        answer = self._send(request)
        if fate == "double":
            answer = self._send(request)
        while self._held:
            self._send(self._held.pop())
        if fate != "mute":
            line.sendall(answer)

    def _send(self, request: bytes) -> bytes:
        handle = os.open(self._agent, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(f"/proc/self/fd/{handle}/agent.sock")
                line.sendall(request)
                parts = []
                while part := line.recv(65536):
                    parts.append(part)
                return b"".join(parts)
        finally:
            os.close(handle)

    def close(self) -> None:
        self._listener.close()
        self._top.cleanup()


def read_request(line: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += line.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = [int(h.split(b":")[1]) for h in head.split(b"\r\n")
                 if h.lower().startswith(b"content-length")]
    while len(body) < length:
        body += line.recv(65536)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize("fates", [
    ["drop", "drop", "pass", "drop"], ["mute", "mute", "mute"], ["double", "mute", "double"],
    ["late", "pass", "pass", "mute", "drop"], ["mute", "late", "drop", "double"]], ids="-".join)
def test_messages_lost_doubled_and_late_make_one_checkpoint(
    kernel: Kernel, fates: list[str]
) -> None:
    before = kernel.ids()
    kernel.arm()
    line = Line(kernel.folder, list(fates))
    try:
        result = deliver(lambda: AgentClient(line.folder), "checkpoints", {})
    finally:
        line.close()
    assert kernel.ids() == [result["id"], *before]
    assert kernel.passed("save.frozen") == 1


def test_request_is_given_up_after_so_many_tries_and_pauses_grow(tmp_path: Path) -> None:
    pauses: list[float] = []
    with pytest.raises(AgentUnreachable):
        deliver(lambda: AgentClient(tmp_path), "checkpoints", {}, pause=pauses.append)
    assert len(pauses) == TRIES - 1
    assert pauses == sorted(set(pauses))


def test_checkpoint_ids_differ_by_kernel_and_request() -> None:
    ids = {checkpoint_id(k, r) for k in ("kernel-1", "kernel-2") for r in ("request-1", "r" * 64)}
    assert len(ids) == 4
    assert all(len(i) == 16 and int(i, 16) >= 0 for i in ids)


