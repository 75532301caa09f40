"""The demo holds, and it would notice if it did not."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpointable import need_checkpoints

from demo.checks import checks
from demo.evidence import QUESTIONS, Evidence
from demo.outputs import Execution
from demo.processes import kill_all, marked_with, trees

ROOT = Path(__file__).parent.parent
RESULT = "'finished: energy 1.0'"
CELLS = [[{"output_type": "stream", "name": "stdout", "text": "step 1\nstep 2\n"}],
         [{"output_type": "execute_result", "data": {"text/plain": RESULT}, "metadata": {}}]]
ANSWERS: dict[str, str | None] = {name: f"answer {name}" for name in QUESTIONS}
GOOD = Evidence(
    saved_step=20, killed_step=30, killed=8, same_kernel_id=True,
    identity_before=[5, 6, [7, 8]], identity_after=[5, 6, [7, 8]], beats_before=40,
    heartbeat=[90, None, 95, True], result=RESULT, expected_result=RESULT,
    cells=CELLS, expected_cells=copy.deepcopy(CELLS), counts=[1, 2, 3],
    answers=ANSWERS, expected_answers=dict(ANSWERS))


def failing(evidence: Evidence) -> list[str]:
    return [check.name for check in checks(evidence) if not check.ok]


def test_checks_of_a_good_outcome_all_hold() -> None:
    assert failing(GOOD) == []


def test_checks_of_no_outcome_all_fail() -> None:
    assert len(failing(Evidence())) == len(checks(GOOD))


@pytest.mark.parametrize(("changes", "name"), [
    ({"survivors": 1}, "everything was killed"),
    ({"killed": 3}, "everything was killed"),
    ({"killed_step": 20}, "running cell finished"),
    ({"killed_step": 60}, "running cell finished"),
    ({"result": "'finished: energy 2.0'"}, "with the result"),
    ({"identity_after": [5, 6, [7, 9]]}, "the same process"),
    ({"same_kernel_id": False}, "the same process"),
    ({"heartbeat": [90, None, 90, True]}, "thread counts on"),
    ({"heartbeat": [30, None, 35, True]}, "thread counts on"),
    ({"heartbeat": [90, None, 95, False]}, "thread counts on"),
    ({"counts": [1, 2, 4]}, "execution counts"),
    ({"counts": [1, 2, None]}, "execution counts"),
    ({"cells": CELLS[:1]}, "document"),
    ({"cells": [CELLS[0] * 2, CELLS[1]]}, "document"),
])
def test_checks_of_a_broken_outcome_fail(changes: dict[str, Any], name: str) -> None:
    failed = failing(replace(GOOD, **changes))
    assert len(failed) == 1
    assert failed[0].startswith(name)


@pytest.mark.parametrize("question", QUESTIONS)
def test_checks_of_a_wrong_answer_fail(question: str) -> None:
    assert len(failing(replace(GOOD, answers={**ANSWERS, question: "other"}))) == 1
    assert len(failing(replace(GOOD, answers={**ANSWERS, question: None}))) == 1


def message(kind: str, number: int, **content: Any) -> dict[str, Any]:
    return {"header": {"msg_id": f"m{number}", "msg_type": kind}, "content": content}


def line(number: int) -> dict[str, Any]:
    return message("stream", number, name="stdout", text=f"line {number}\n")


def test_execution_that_is_adopted_shows_nothing_twice() -> None:
    execution = Execution("e")
    for number in (1, 2, 3):
        execution.add(line(number))
    execution.hold()
    execution.add(line(2))
    execution.add(line(5))
    execution.adopt({"outputs": [{"output_type": "stream", "name": "stdout",
                                  "text": "line 1\nline 2\n"}],
                     "execution_count": 4, "message_ids": ["m1", "m2"]}, finished=False)
    execution.add(message("status", 6, execution_state="idle"))
    assert execution.text == "line 1\nline 2\nline 5\n"
    assert execution.count == 4
    assert execution.done.is_set()


def test_marked_with_finds_a_process_and_its_children(tmp_path: Path) -> None:
    child = subprocess.Popen(["sh", "-c", "env -i sleep 60; true"],
                             env={**os.environ, "DEMO_FOLDER": str(tmp_path)})
    try:
        while len(trees([child.pid])) < 2:  # or the shell starts the second when it is too late
            assert child.poll() is None
        found = marked_with(str(tmp_path))
        assert child.pid in {identity.pid for identity in found}
    finally:
        assert kill_all(trees([child.pid])) == []
        child.wait()
    assert marked_with(str(tmp_path)) == set()


@pytest.fixture
def checkpoints() -> None:
    need_checkpoints()


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.timeout(240)
def test_demo_holds() -> None:
    done = subprocess.run([sys.executable, "-m", "demo"], cwd=ROOT, timeout=220,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"All {len(checks(GOOD))} checks hold" in done.stdout


@pytest.mark.usefixtures("checkpoints")
def test_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Interrupted when the server runs and the kernels start."""
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "demo"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True,
        # As from a terminal: whoever runs the tests in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert demo.stdout is not None
    assert "A Jupyter server runs" in demo.stdout.readline()
    demo.send_signal(signal.SIGINT)
    rest, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130, rest
    assert list(tmp_path.iterdir()) == []
    assert marked_with(f"{tmp_path}/jupyter-ckpt-demo-") == set()
