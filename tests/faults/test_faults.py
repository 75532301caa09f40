"""A representative part of the fault matrix; `make faults` walks all of it."""

from __future__ import annotations

import os

import pytest
from checkpointable import need_checkpoints

from . import report
from .company import play
from .matrix import Case, all_cases
from .outcome import Outcome

pytestmark = pytest.mark.timeout(900)  # the first test waits for all cases

STORE = [
    "create:store.write:kill:writer", "transaction:store.claimed:kill:writer",
    "transaction:store.chunk#4:enospc:writer", "transaction:store.write#4:short:writer",
    "transaction:store.chunks-synced:eio:writer", "transaction:store.chunk-named#4:kill:writer",
    "transaction:store.manifest-written:kill:writer",
    "transaction:store.manifest-named:enospc:writer", "transaction:store.committed:kill:writer",
    "update:store.update-written:kill:writer", "remove:store.removed:kill:writer",
    "collect:gc.removed#5:kill:writer", "collect:gc.marked:stop:writer",
    "retain:retention.removed:kill:writer",
]
KERNEL = [
    "save:save.quiesced:kill:agent", "save:save.frozen:kill:agent", "save:save.frozen:enospc:agent",
    "save:store.manifest-named:kill:agent", "save:save.stored:kill:client",
    "save:save.frozen:kill:criu", "save:criu.fails:scene:dump",
    "restore-new:restore.running:kill:agent", "restore-in-place:restore.stopped:kill:agent",
    "restore-in-place:criu.dies:scene:restore", "take-over:agent.listening:kill:agent",
    "launch:launch.boxed:kill:agent", "launch:record.written:kill:agent",
    "launch:record.written#2:enospc:agent", "end:agent.burying:kill:agent",
]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Play the cases in one go, in the mode that this user has."""
    need_checkpoints()
    known = {case.id: case for case in all_cases()}
    mode = "root" if os.geteuid() == 0 else "rootless"
    played = play([known[name] for name in STORE + KERNEL], [mode], lambda outcome: None)
    return {outcome.case: outcome for outcome in played}


@pytest.mark.parametrize("name", STORE + KERNEL)
def test_every_promise_is_kept_when(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].fired, outcomes[name]
    assert outcomes[name].broken == []


def test_matrix_names_every_case_once() -> None:
    ids = [case.id for case in all_cases()]
    assert len(set(ids)) == len(ids) >= 300


def test_matrix_passes_by_every_point_of_the_code() -> None:
    from jupyter_ckpt.faults import POINTS

    walked = {case.point for case in all_cases() if not case.is_scene}
    assert set(POINTS) == walked


def test_figures_count_only_what_fired() -> None:
    case = Case("save", "save.frozen", "kill", "agent").id
    told = report.figures([Outcome(case, "root", fired=True, half_visible=1),
                           Outcome(case, "rootless", fired=True, kernel_lost=True),
                           Outcome(case, "root", kernel_lost=True, left_frozen=True)])
    assert told[0].startswith("faults injected: 2 (1 distinct cases")
    assert told[1:] == ["kernels lost: 1", "kernels left frozen: 0",
                        "checkpoints half visible: 1"]
