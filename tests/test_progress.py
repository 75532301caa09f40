"""How far an act is said to be: never further than it is, and never back."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_ckpt.protocol import Job
from jupyter_ckpt.server import events
from jupyter_ckpt.server.events import Act


class Listener:
    """Takes events, and keeps how far each said that its act is."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def emit(self, action: str, phase: str, **fields: Any) -> None:
        self.told.append(fields["progress"])


def report(act: Act, job: Job, state: str, done: int = 0, total: int = 0) -> None:
    job.state, job.done_bytes, job.total_bytes = state, done, total
    act.progressed(job)


@pytest.fixture(autouse=True)
def every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PROGRESS_INTERVAL_S", 0.0)


@pytest.mark.parametrize(("kind", "states"), [
    ("checkpoints", ["quiescing", "dumping", "storing", "verifying"]),
    ("restores", ["preparing", "restoring"]),
    ("restores", ["preparing", "quiescing", "dumping", "storing", "verifying", "restoring"])])
def test_progress_grows_from_state_to_state_and_with_the_bytes(
    kind: str, states: list[str]
) -> None:
    listener = Listener()
    act, job = Act(listener, "restore", "job-0001", "k"), Job("job-0001", kind)
    act.started()
    for state in states:
        for done in (0, 50, 100):
            report(act, job, state, done, 100)
    act.succeeded()
    assert listener.told == sorted(listener.told)
    assert len(set(listener.told)) > 2 * len(states), "bytes count in every state"
    assert (listener.told[0], listener.told[-1]) == (0.0, 1.0)


def test_progress_does_not_go_back_when_a_job_begins_anew() -> None:
    """Its agent has died: the next one carries the same job out."""
    listener = Listener()
    act, job = Act(listener, "restore", "job-0001", "k"), Job("job-0001", "restores")
    report(act, job, "restoring")
    report(act, job, "preparing", 1, 100)
    assert listener.told[1] == listener.told[0]


def test_act_of_several_jobs_is_done_with_the_last() -> None:
    listener = Listener()
    act = Act(listener, "fork", "fork-0001", "k", jobs=3)
    for number, kind in enumerate(["checkpoints", "restores", "restores"]):
        report(act, Job(f"job-000{number}", kind), "restoring" if number else "storing", 100, 100)
    assert listener.told == pytest.approx([1 / 3, 2 / 3, 1.0], abs=0.05)
