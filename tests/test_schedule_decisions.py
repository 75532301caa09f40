"""When the agent saves by itself: decisions, on a clock of the test's own."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_kernels import a_manifest
from inkernel_harness import until

from jupyter_ckpt.agent import telling
from jupyter_ckpt.agent.activity import Mark, went_on
from jupyter_ckpt.agent.jobs import JobTable
from jupyter_ckpt.agent.kernel import Kernel
from jupyter_ckpt.agent.kernel_link import KernelLink
from jupyter_ckpt.agent.schedule import BUSY_RETRY_S, CELLS_RETRY_S, Scheduler
from jupyter_ckpt.agent.tidying import Tidying
from jupyter_ckpt.box import Box
from jupyter_ckpt.errors import ChunkCorrupt, KernelNotFound, OutOfSpace, UsageError
from jupyter_ckpt.manifest import PRESSURE
from jupyter_ckpt.offers import offer_again
from jupyter_ckpt.plan import KEEP_VARIABLE, Schedule
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import KERNEL_SOCKET_NAME, TRIGGERS
from jupyter_ckpt.record import RECORD_NAME, Record, read_record, write_record


class FakeLink:
    exists = True

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = {"busy": False, "cells_run": 0}
        self.told: list[dict[str, Any]] = []
        self.deaf = False

    def ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any] | None:
        if op == "status":
            return self.status
        if self.deaf:
            return None
        self.told.append(fields)
        return {"ok": True}


class FakeKernel:
    def __init__(self, record: Record) -> None:
        self.record, self.link = record, FakeLink()
        self.mark: Mark | None = None
        self.prove_next = False
        self.saved_at: float | None = None

    distrust = Kernel.distrust

    def run_a_cell(self) -> None:
        assert self.link.status is not None
        self.link.status["cells_run"] += 1


class FakeAgent:
    """An agent whose saves take no time, on a clock that only the test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.kernel: FakeKernel | None = None
        self.news: Any = lambda: None
        self.saves: list[str] = []
        self.failure: Exception | None = None

    def need_kernel(self) -> FakeKernel:
        if self.kernel is None:
            raise KernelNotFound("There is none.")
        return self.kernel

    def note(self, kernel: FakeKernel, **fields: Any) -> bool:
        if kernel is not self.kernel:
            return False
        kernel.record = replace(kernel.record, **fields)
        write_record(self.folder, kernel.record)
        return True

    remember = note

    def save(self, request: dict[str, Any], job: Any) -> dict[str, Any]:
        self.saves.append(request["purpose"] or request["trigger"])
        if self.failure is not None:
            raise self.failure
        kernel = self.need_kernel()
        kernel.mark, kernel.saved_at = Mark.of(None, kernel.link.status), self.now
        return {"id": f"{len(self.saves):016x}"}


class Bench:
    """A scheduler that is stepped by hand."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.agent = FakeAgent(folder)
        self.jobs = JobTable()
        self.scheduler = Scheduler(
            self.agent, self.jobs, self.agent.save,  # type: ignore[arg-type]
            lambda: self.agent.now)

    def kernel(self, **changes: Any) -> FakeKernel:
        own = ProcessId.of(os.getpid())
        record = Record(self.agent.folder.name, injected=True, root=None, kernel=own, **changes)
        self.agent.kernel = kernel = FakeKernel(record)
        self.scheduler.step()
        return kernel

    def later(self, seconds: float) -> list[str]:
        """Let time pass and the scheduler look; return the triggers of all saves so far."""
        self.agent.now += seconds
        self.scheduler.step()
        until(lambda: self.jobs.idle, "the saves have ended")
        return self.agent.saves


TIDIED: list[bool] = []
"""The times that the bench was tidied up; whether because the disk was full."""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(Tidying, "run", lambda self, kernel, disk_full: TIDIED.append(disk_full))
    TIDIED.clear()
    return Bench(tmp_path / "kernel-0001")


def test_no_schedule_no_saves_and_no_waking_up(bench: Bench) -> None:
    kernel = bench.kernel()
    kernel.run_a_cell()
    assert bench.later(1e6) == []
    assert bench.scheduler._sleep_s() is None
    assert kernel.link.told == []
    assert bench.scheduler.view()["next_due_s"] is None
    assert bench.scheduler.cells_done() == {"accepted": False, "cells": None}


@pytest.mark.parametrize("held", [False, True])
def test_kernel_without_an_answer_went_on_unless_it_is_still_starting(
    tmp_path: Path, held: bool
) -> None:
    just_now = ProcessId(os.getpid(), _ticks_since_boot())
    kernel: Any = FakeKernel(Record("kernel-0001", injected=True, kernel=just_now))
    kernel.link = KernelLink(tmp_path)
    if held:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(tmp_path / KERNEL_SOCKET_NAME))
    assert went_on(kernel, timeout_s=1) is held


def _ticks_since_boot() -> int:
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return int(uptime_s * os.sysconf("SC_CLK_TCK"))


def test_python_kernel_whose_inside_was_never_heard_is_judged_like_any_other_language(
    tmp_path: Path
) -> None:
    since_boot = ProcessId(os.getpid(), 0)
    kernel: Any = FakeKernel(Record("kernel-0001", injected=True, kernel=since_boot))
    kernel.link = KernelLink(tmp_path)
    assert went_on(kernel, timeout_s=1), "nobody can tell that it has run nothing"
    kernel.mark = Mark.of(None, None)
    assert not went_on(kernel, timeout_s=1), "it used no processor since it was saved"
    kernel.record.link_seen = True
    assert went_on(kernel, timeout_s=1), "it could answer, so native code holds it"


def test_first_answer_is_noted_and_kept(tmp_path: Path) -> None:
    kernel = Kernel(Record("kernel-0001", injected=True), cast(Box, None), tmp_path)
    assert kernel.link.ask("status", 1) is None
    assert not kernel.record.link_seen
    with socket.socket(socket.AF_UNIX) as inside:
        inside.bind(str(tmp_path / KERNEL_SOCKET_NAME))
        inside.listen()
        thread = threading.Thread(target=_answer_once, args=(inside,))
        thread.start()
        assert kernel.link.ask("status", 10) == {"ok": True}
        thread.join()
    assert Record.from_dict(kernel.record.to_dict()).link_seen


def _answer_once(inside: socket.socket) -> None:
    connection, _ = inside.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(b'{"ok": true}')


def test_saves_by_time_only_what_went_on(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    assert bench.scheduler._sleep_s() == 60
    assert bench.later(61) == []  # nothing was ever run
    kernel.run_a_cell()
    assert bench.later(30) == []
    assert bench.later(31) == ["interval"]
    for _ in range(20):
        assert bench.later(61) == ["interval"]
    assert kernel.link.status is not None
    kernel.link.status["busy"] = True  # a cell that goes on and on
    for count in range(2, 5):
        assert bench.later(61) == ["interval"] * count
    kernel.link.status["busy"] = False
    kernel.run_a_cell()  # its end
    assert bench.later(61) == ["interval"] * 5
    assert bench.later(61) == ["interval"] * 5


def test_processor_time_counts_but_an_idle_kernels_does_not() -> None:
    earlier = Mark(cells=3, busy=False, cpu_s=10.0, at=0.0)
    assert not Mark(3, False, 10.05, 300.0).is_beyond(earlier)
    assert Mark(3, False, 10.2, 300.0).is_beyond(earlier)
    assert not Mark(3, False, 10.3, 3600.0).is_beyond(earlier)  # heartbeats of an hour
    assert Mark(4, False, 10.0, 1.0).is_beyond(earlier)
    assert Mark(None, False, 10.0, 1.0).is_beyond(None)  # another language: who knows
    assert not Mark(None, False, 10.0, 1.0).is_beyond(Mark(None, False, 10.0, 0.0))
    assert Mark.of(ProcessId.of(os.getpid()), None).cpu_s > 0


def test_mark_is_kept_in_the_record(tmp_path: Path) -> None:
    mark = Mark(cells=3, busy=False, cpu_s=10.5, at=100.0)
    first = Kernel(Record("kernel-0001"), cast(Box, None), tmp_path)
    assert first.mark is None
    first.mark = mark
    write_record(tmp_path, first.record)
    second = Kernel(Record.from_dict(json.loads((tmp_path / RECORD_NAME).read_text())),
                    cast(Box, None), tmp_path)
    assert second.mark == mark


@pytest.mark.parametrize("data", [{}, {"cells": 1}, {"cells": "3", "busy": False, "cpu_s": 1, "at":
                                  1}, {"cells": 3, "busy": 0, "cpu_s": 1, "at": 1}])
def test_what_is_no_mark_is_none(data: dict[str, Any]) -> None:
    assert Mark.from_dict(data) is None


def test_kernel_that_cannot_answer_is_saved(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    kernel.link.status = None
    assert bench.later(61) == ["interval"]


def test_a_save_by_hand_puts_the_next_one_off(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    kernel.run_a_cell()
    bench.agent.now += 40
    kernel.saved_at = bench.agent.now
    assert bench.later(30) == []
    assert bench.scheduler.view()["next_due_s"] == 30
    kernel.run_a_cell()
    assert bench.later(31) == ["interval"]


def test_save_for_want_of_memory_is_one_of_the_schedule_with_a_purpose(bench: Bench) -> None:
    kernel: Any = bench.kernel(schedule=Schedule(60.0))
    kernel.run_a_cell()
    bench.scheduler.save_if_went_on(kernel, "interval", PRESSURE)
    assert bench.later(0) == [PRESSURE]
    assert PRESSURE not in TRIGGERS


def test_never_two_at_once(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0, 1))
    kernel.run_a_cell()
    with bench.jobs.turn:  # somebody's save goes on
        bench.agent.now += 61
        bench.scheduler.step()
        assert bench.scheduler._job is None
        assert bench.scheduler.cells_done()["accepted"]
        assert not bench.scheduler.cells_done()["accepted"]
    assert bench.later(BUSY_RETRY_S) == ["cell"]
    assert bench.later(61) == ["cell"]


def test_cells_that_end_while_a_save_is_on_its_way_are_saved_after_it(bench: Bench) -> None:
    """Or the last one before its user goes home would be saved never."""
    kernel = bench.kernel(schedule=Schedule(None, 1))
    kernel.run_a_cell()
    with bench.jobs.turn:
        assert bench.scheduler.cells_done()["accepted"]
        assert not bench.scheduler.cells_done()["accepted"]
        assert bench.scheduler._sleep_s() == pytest.approx(CELLS_RETRY_S)
    until(lambda: bench.jobs.idle, "the save has ended")
    kernel.run_a_cell()
    assert bench.later(CELLS_RETRY_S) == ["cell", "cell"]
    assert bench.scheduler._sleep_s() is None

    # What the save on its way holds is not saved again.
    kernel.run_a_cell()
    with bench.jobs.turn:
        assert bench.scheduler.cells_done()["accepted"]
        assert not bench.scheduler.cells_done()["accepted"]
    until(lambda: bench.jobs.idle, "the save has ended")
    assert bench.later(CELLS_RETRY_S) == ["cell"] * 3
    assert bench.scheduler._sleep_s() is None


def test_failures_are_kept_and_retried_ever_later(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0, 3))
    kernel.run_a_cell()
    bench.agent.failure = OutOfSpace("The disk is full.", "Free some.")
    assert len(bench.later(61)) == 1
    last = bench.scheduler.view()["last_automatic"]
    assert (last["id"], last["error"]["id"]) == (None, "out-of-space")
    assert len(bench.later(61)) == 2  # at the next due time
    assert len(bench.later(61)) == 2
    assert len(bench.later(61)) == 3
    for _ in range(3):
        assert len(bench.later(61)) == 3
    assert bench.scheduler.cells_done()["accepted"] is False
    bench.agent.failure = None
    assert len(bench.later(61)) == 4
    last = bench.scheduler.view()["last_automatic"]
    assert (last["id"], last["error"]) == (f"{4:016x}", None)
    kernel.run_a_cell()
    assert len(bench.later(61)) == 5  # no delay is left


def test_full_disk_is_relieved_once_for_each_save_that_failed_of_it(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    kernel.run_a_cell()
    bench.agent.failure = OutOfSpace("The disk is full.", "Free some.")
    bench.later(61)
    for _ in range(3):
        bench.later(1)
    assert TIDIED == [True]
    bench.agent.failure = None
    assert len(bench.later(61)) == 2
    bench.later(1)
    assert TIDIED == [True, False]


def test_damage_has_the_next_save_prove_what_it_shares_and_is_told(bench: Bench) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    kernel.run_a_cell()
    assert len(bench.later(61)) == 1
    bench.scheduler._found_damage(ChunkCorrupt("Checkpoint 1 is damaged.", "Restore a backup."))
    assert kernel.prove_next
    last = bench.scheduler.view()["last_automatic"]
    assert (last["id"], last["error"]["message"]) == (None, "Checkpoint 1 is damaged.")
    assert len(bench.later(61)) == 2  # although nothing was run
    assert bench.scheduler.view()["last_automatic"]["error"] is None


def test_what_records_and_offers_rely_on_is_needed(tmp_path: Path) -> None:
    folders = [tmp_path / "kernel-0001", tmp_path / "kernel-0002"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_record(folder, Record(folder.name, parent=f"{number:016x}", recover=None if number
                                    else "f" * 16))
    offered = a_manifest("kernel-0003")
    offer_again(tmp_path, offered, "it could not be brought back")
    agent: Any = SimpleNamespace(folder=folders[0])
    assert Tidying(agent, lambda error: None)._needed() == {
        "0" * 16, f"{1:016x}", "f" * 16, offered.id}


def test_next_agent_knows_of_the_failures(bench: Bench, tmp_path: Path) -> None:
    kernel = bench.kernel(schedule=Schedule(60.0))
    kernel.run_a_cell()
    bench.agent.failure = OutOfSpace("The disk is full.", "Free some.")
    bench.later(61)
    bench.later(61)
    noted = kernel.record.automatic
    assert noted is not None
    assert noted["failures"] == 2
    after = Bench(tmp_path / "kernel-0002")
    second = after.kernel(schedule=Schedule(60.0), automatic=noted)
    second.run_a_cell()
    assert after.scheduler.view()["last_automatic"]["error"]["id"] == "out-of-space"
    assert 110 < after.scheduler.view()["next_due_s"] <= 120  # after two failures
    assert after.later(100) == []
    assert after.later(30) == ["interval"]
    assert second.record.automatic == {
        "last": after.scheduler.view()["last_automatic"], "failures": 0}


@pytest.mark.parametrize("noted", [{}, {"last": 5, "failures": "many"}, {"last": {"at": None},
                                   "failures": 3}, {"last": {"at": "2026-01-01"}, "failures": 3}])
def test_senseless_notes_harm_nobody(bench: Bench, noted: dict[str, Any]) -> None:
    bench.kernel(schedule=Schedule(60.0), automatic=noted).run_a_cell()
    assert bench.later(1000) == ["interval"]


def test_unexpected_failure_is_kept_too(bench: Bench) -> None:
    bench.kernel(schedule=Schedule(None, 1))
    bench.agent.failure = ZeroDivisionError("division by zero")
    assert bench.scheduler.cells_done() == {"accepted": True, "cells": 1}
    until(lambda: bench.jobs.idle, "it has ended")
    assert "ZeroDivisionError" in bench.scheduler.view()["last_automatic"]["error"]["message"]


def test_change_is_written_and_told_and_a_bad_one_changes_nothing(bench: Bench) -> None:
    kernel = bench.kernel(cwd="/somewhere")
    assert bench.scheduler.change({"every": "1m", "cells": 4})["keep"] == 5
    assert read_record(bench.agent.folder).schedule == Schedule(60.0, 4)
    bench.later(0)
    assert kernel.link.told == [{"scheduled": True, "cells": 4}]
    with pytest.raises(UsageError):
        bench.scheduler.change({"every": "1s"})
    assert read_record(bench.agent.folder).schedule == Schedule(60.0, 4)
    bench.scheduler.change({"off": True})
    bench.later(0)
    assert kernel.link.told[-1] == {"scheduled": False, "cells": None}
    assert bench.scheduler._sleep_s() is None


@pytest.mark.parametrize(("said", "keep"), [('{"keep": 3}', 3), ('{"keep": 0}', 5), ("[", 5)])
def test_schedule_keeps_what_the_configuration_says_unless_it_says_so_itself(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, keep: int
) -> None:
    monkeypatch.setenv(KEEP_VARIABLE, said)
    bench = Bench(tmp_path / "kernel-0002")
    bench.kernel()
    assert bench.scheduler.change({"every": "1m"})["keep"] == keep
    assert bench.scheduler.change({"keep": 7})["keep"] == 7
    bench.scheduler.change({"off": True})
    assert bench.scheduler.change({"cells": 2})["keep"] == keep


def test_changing_keep_does_not_put_the_next_save_off(bench: Bench) -> None:
    bench.kernel(schedule=Schedule(60.0))
    bench.later(40)
    assert bench.scheduler.change({"keep": 9})["next_due_s"] == 20
    assert bench.scheduler.change({"every": "2m"})["next_due_s"] == 120


def test_kernel_that_is_not_up_yet_is_told_later(bench: Bench) -> None:
    kernel = bench.kernel()
    kernel.link.deaf = True
    bench.scheduler.change({"cells": 2})
    bench.later(0)
    assert bench.scheduler._sleep_s() == pytest.approx(telling.TELL_FIRST_S)
    bench.later(0.3)
    bench.later(100)
    kernel.link.deaf = False
    bench.later(telling.TELL_MOST_S)
    assert kernel.link.told == [{"scheduled": True, "cells": 2}]
    assert bench.scheduler._sleep_s() is None


def test_restored_kernel_begins_anew_and_is_told(bench: Bench) -> None:
    bench.kernel(schedule=Schedule(60.0, 2))
    bench.agent.now += 59
    second = bench.kernel(schedule=Schedule(60.0, 2), epoch=2)
    assert second.link.told == [{"scheduled": True, "cells": 2}]
    assert bench.scheduler.view()["next_due_s"] == 60
    third = bench.kernel(epoch=3)  # restored in place after the schedule was switched off
    assert third.link.told == [{"scheduled": False, "cells": None}]
    bench.agent.kernel = None
    bench.scheduler.step()
    assert bench.scheduler._sleep_s() is None
