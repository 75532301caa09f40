"""The agent's acts: taken back while nothing is done yet, and waited for while they get on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from inkernel_harness import until

from jupyter_ckpt.agent.jobs import JobTable
from jupyter_ckpt.errors import Cancelled, CheckpointRefused, UsageError
from jupyter_ckpt.protocol import Job

ID = "a-request-0001"


class Act:
    """An act that stays in a state until the test lets it go on."""

    def __init__(self, state: str = "quiescing", error: Exception | None = None) -> None:
        self.state, self.error = state, error
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> dict[str, Any]:
        job.enter(self.state)
        self.begun.set()
        assert self.go_on.wait(60)
        if self.error is not None:
            raise self.error
        job.enter("dumping")
        return {"id": "made"}


def begun(kind: str, act: Act) -> tuple[JobTable, Job]:
    table = JobTable()
    job = table.put(kind, ID, act)
    assert act.begun.wait(60)
    return table, job


@pytest.mark.parametrize("error", [None, CheckpointRefused("A hook said no.")])
def test_save_is_cancelled_until_its_dump_begins(error: Exception | None) -> None:
    act = Act(error=error)
    table, job = begun("checkpoints", act)
    answer = table.cancel("checkpoints", ID)
    assert (answer.state, type(answer.error)) == ("failed", Cancelled)
    act.go_on.set()
    until(lambda: table.idle, "the act has ended")
    assert (job.state, type(job.error), job.result) == ("failed", Cancelled, None)
    after = table.put("checkpoints", "a-request-0002", lambda job: {"id": "the next"})
    until(lambda: after.finished, "the next act")
    assert after.result == {"id": "the next"}


@pytest.mark.parametrize(("kind", "state"), [
    ("checkpoints", "dumping"), ("checkpoints", "storing"), ("restores", "quiescing")])
def test_what_has_begun_is_not_cancelled(kind: str, state: str) -> None:
    act = Act(state)
    table, job = begun(kind, act)
    with pytest.raises(UsageError, match="cannot be cancelled any more"):
        table.cancel(kind, ID)
    act.go_on.set()
    until(lambda: job.finished, "the act's end")
    assert table.cancel(kind, ID).result == {"id": "made"}


def test_queued_job_is_cancelled_and_never_begins() -> None:
    first = Act()
    table, _ = begun("restores", first)
    second = Act()
    job = table.put("restores", "a-request-0002", second)
    assert isinstance(table.cancel("restores", "a-request-0002").error, Cancelled)
    first.go_on.set()
    until(lambda: table.idle, "both acts have ended")
    assert job.state == "failed"
    assert not second.begun.is_set()


def test_kept_error_keeps_no_frames() -> None:
    act = Act(error=CheckpointRefused("No."))
    table, job = begun("checkpoints", act)
    act.go_on.set()
    until(lambda: table.idle, "the act has ended")
    assert job.error is not None
    assert (job.error.message, job.error.__traceback__) == ("No.", None)


def test_act_that_gets_on_is_waited_for() -> None:
    act = Act("storing")
    table, job = begun("checkpoints", act)
    waiter = threading.Thread(target=table.await_running, args=(60.0,))
    waiter.start()
    assert waiter.is_alive()
    act.go_on.set()
    waiter.join(60)
    assert job.state == "done"


def test_act_that_hangs_is_not_waited_for() -> None:
    act = Act("storing")
    table, job = begun("checkpoints", act)
    table.await_running(still_s=0.1)
    assert not job.finished
    act.go_on.set()
