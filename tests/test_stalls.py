"""Acts that hang in a disk: told of, given up in the end, harmless should they go on."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

import pytest
from inkernel_harness import until

from jupyter_ckpt.agent.jobs import JobTable
from jupyter_ckpt.agent.stalls import StallWatch
from jupyter_ckpt.errors import Cancelled, CheckpointError, DumpFailed, LaunchFailed, RestoreFailed
from jupyter_ckpt.protocol import Job


class Clock:
    """Ten minutes pass between two looks, in which `meanwhile` happens."""

    def __init__(self) -> None:
        self.looks = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        self.looks += 1
        self.meanwhile()
        return 600.0 * self.looks


def watch(clock: Clock | None = None, **durations: float) -> StallWatch:
    return StallWatch(look_every_s=0.001, clock=clock or Clock(), **durations)


class Disk:
    """An act at a disk that answers when the test lets it."""

    def __init__(self, state: str = "storing", irrevocable: bool = False) -> None:
        self.state, self.irrevocable = state, irrevocable
        self.answers = threading.Event()
        self.committed = False
        self.error: CheckpointError | None = None
        self.gets_on: Callable[[], object] = lambda: None

    def __call__(self, job: Job) -> dict[str, Any]:
        self.gets_on = lambda: job.advance(1)
        job.enter(self.state)
        if self.irrevocable:
            job.pass_point_of_no_return()
        assert self.answers.wait(60)
        try:
            job.advance(1)
        except CheckpointError as error:
            self.error = error
            raise
        self.committed = True
        return {"id": "made"}


def test_act_that_hangs_says_so_and_goes_on_as_if_nothing_had_been() -> None:
    table, disk = JobTable(watch(given_up_after_s=float("inf"))), Disk()
    job = table.put("checkpoints", "a-request-0001", disk)
    until(lambda: "nothing was read or written for" in job.phase, "what hangs is told")
    disk.answers.set()
    until(lambda: table.idle, "the act has ended")
    assert (job.state, job.phase, job.result) == ("done", "", {"id": "made"})


@pytest.mark.parametrize(("kind", "state", "expected"), [
    ("checkpoints", "storing", DumpFailed), ("checkpoints", "verifying", DumpFailed),
    ("restores", "preparing", RestoreFailed)])
def test_act_that_hangs_for_long_is_given_up_and_makes_nothing_when_the_disk_is_back(
    kind: str, state: str, expected: type[CheckpointError]
) -> None:
    table, disk = JobTable(watch()), Disk(state)
    job = table.put(kind, "a-request-0001", disk)
    until(lambda: job.finished, "the act is given up")
    assert (job.state, type(job.error)) == ("failed", expected)
    assert table.idle  # nobody waits for it
    disk.answers.set()
    until(lambda: disk.error is not None, "the disk is back")
    assert (disk.committed, type(disk.error)) == (False, Cancelled)
    assert (type(job.error), job.result) == (expected, None)


def test_what_waits_for_an_act_that_was_given_up_fails_and_later_acts_are_done() -> None:
    table, disk = JobTable(watch()), Disk()
    table.put("checkpoints", "a-request-0001", disk)
    waiting = table.put("restores", "a-request-0002", lambda job: {})
    until(lambda: waiting.finished, "what waits is given up, too")
    assert isinstance(waiting.error, RestoreFailed)
    assert "until the disk answers" in waiting.error.message
    for kind, expected in (("checkpoints", DumpFailed), ("launches", LaunchFailed)):
        asked = table.put(kind, "a-request-0003", lambda job: {})
        assert (asked.state, type(asked.error)) == ("failed", expected)
    table.await_running()  # does not wait for it, either
    disk.answers.set()
    until(lambda: table.turn.acquire(blocking=False), "the disk is back")
    table.turn.release()
    later = until(lambda: accepted(table), "acts are taken again")
    until(lambda: later.finished, "the next act")
    assert later.result == {"id": "later"}


def accepted(table: JobTable) -> Job | None:
    job = table.put("checkpoints", secrets.token_hex(8), lambda job: {"id": "later"})
    return None if job.state == "failed" else job


def test_disk_that_hangs_when_the_act_begins_is_noticed() -> None:
    answers = threading.Event()

    def act(job: Job) -> dict[str, Any]:
        assert answers.wait(60)  # as the first look into the store
        job.enter("quiescing")
        return {}

    job = JobTable(watch()).put("checkpoints", "a-request-0001", act)
    until(lambda: job.finished, "the act is given up")
    assert isinstance(job.error, DumpFailed)
    answers.set()


def test_kernel_that_takes_its_time_is_no_disk_that_hangs() -> None:
    clock, disk = Clock(), Disk("quiescing")
    job = JobTable(watch(clock)).put("checkpoints", "a-request-0001", disk)
    until(lambda: clock.looks > 20, "hours have passed")
    assert (job.finished, job.phase) == (False, "")
    disk.answers.set()


def test_act_whose_threads_cannot_be_had_is_carried_out_all_the_same(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    table = JobTable(watch())
    monkeypatch.setattr("jupyter_ckpt.agent.stalls.threading.Thread.start", refuse)
    job = table.put("checkpoints", "a-request-0001", lambda job: {"id": "made"})
    until(lambda: job.finished, "the act has ended")
    assert job.result == {"id": "made"}


@pytest.mark.parametrize("disk", [Disk(irrevocable=True), Disk("restoring"), Disk("dumping")],
                         ids=["irrevocable", "restoring", "dumping"])
def test_act_that_a_session_depends_on_is_never_given_up(disk: Disk) -> None:
    clock = Clock()
    table = JobTable(watch(clock))
    job = table.put("checkpoints", "a-request-0001", disk)
    until(lambda: clock.looks > 20, "hours have passed")
    assert not job.finished
    assert ("hangs" in job.phase) == disk.irrevocable
    disk.answers.set()
    until(lambda: table.idle, "the act has ended")
    assert job.state == "done"


def test_act_that_gets_on_slowly_is_not_given_up() -> None:
    clock, disk = Clock(), Disk()
    clock.meanwhile = lambda: disk.gets_on()  # from its first moment to its last
    table = JobTable(watch(clock))
    job = table.put("checkpoints", "a-request-0001", disk)
    until(lambda: clock.looks > 20, "hours have passed")
    assert not job.finished
    disk.answers.set()
    until(lambda: table.idle, "the act has ended")
    assert job.state == "done"
