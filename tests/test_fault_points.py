"""Fault points: what is listed is what the code passes, and it costs nothing."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from jupyter_ckpt import faults

PACKAGE = Path(faults.__file__).parent

PASS_BY = """
import sys
from jupyter_ckpt.faults import point, shortened
for _ in range(int(sys.argv[1])):
    point("save.begun")
print(shortened("store.write", 10))
"""


def named_points() -> Counter[str]:
    """Return how often each point is named in the code."""
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                    and node.func.id == "point" and isinstance(node.args[0], ast.Constant)):
                found[str(node.args[0].value)] += 1
    return found


def passing_by(plan: Path, *faults_of_plan: dict[str, object], times: int = 1
               ) -> subprocess.CompletedProcess[str]:
    (plan / "plan.json").write_text(json.dumps(faults_of_plan))
    return subprocess.run([sys.executable, "-c", PASS_BY, str(times)], text=True, check=False,
                          capture_output=True, env={**os.environ, faults.VARIABLE: str(plan)})


def test_every_listed_point_is_in_the_code_once() -> None:
    assert named_points() == dict.fromkeys(faults.POINTS, 1)


def test_without_a_plan_a_point_does_nothing() -> None:
    assert faults.VARIABLE not in os.environ
    assert faults.point("no such point, and nobody looks") is None
    assert faults.shortened("store.write", 10) is None


def test_a_process_leaves_a_trace_where_it_comes_by(tmp_path: Path) -> None:
    done = passing_by(tmp_path, times=2)
    assert done.returncode == 0
    assert [line.split()[1] for line in (tmp_path / "trace").read_text().splitlines()] == [
        "save.begun", "save.begun"]


def test_a_fault_fires_at_its_nth_time_and_only_once(tmp_path: Path) -> None:
    fault = {"point": "save.begun", "act": "kill", "nth": 3}
    assert passing_by(tmp_path, fault, times=2).returncode == 0
    assert passing_by(tmp_path, fault, times=3).returncode == -signal.SIGKILL
    assert passing_by(tmp_path, fault, times=3).returncode == 0


def test_a_new_plan_is_counted_anew(tmp_path: Path) -> None:
    plan = faults._Plan(tmp_path)
    for _ in range(2):
        (tmp_path / "plan.json").write_text('[{"point": "save.begun", "act": "eio"}]')
        (tmp_path / "fired-0").unlink(missing_ok=True)
        with pytest.raises(OSError, match="Input/output"):
            plan.point("save.begun")
        plan.point("save.begun")


@pytest.mark.parametrize(("act", "word"), [("enospc", "No space left"), ("eio", "Input/output")])
def test_a_disk_that_fails(tmp_path: Path, act: str, word: str) -> None:
    assert word in passing_by(tmp_path, {"point": "save.begun", "act": act}).stderr


def test_a_disk_that_takes_only_half(tmp_path: Path) -> None:
    done = passing_by(tmp_path, {"point": "store.write", "act": "short"})
    assert done.stdout.strip() == "5"


def test_a_fault_of_another_program_is_not_ours(tmp_path: Path) -> None:
    fault = {"point": "save.begun", "act": "kill", "program": "no such program"}
    assert passing_by(tmp_path, fault).returncode == 0
