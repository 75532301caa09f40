"""Automatic checkpoints as the kernel sees them: the magic, and counting cells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from inkernel_harness import FakeAgent, InjectedKernel, manifest, text_of, until


@pytest.fixture
def kernel() -> Iterator[InjectedKernel]:
    kernel = InjectedKernel()
    yield kernel
    kernel.close()


@pytest.fixture
def agent(kernel: InjectedKernel) -> Iterator[FakeAgent]:
    agent = FakeAgent(kernel.runtime)
    yield agent
    agent.close()


LIMIT = "get_ipython().checkpoint.__wrapped__.__self__.cells.limit"


def asked_for_cells(agent: FakeAgent) -> int:
    return len([path for method, path, _ in agent.asked if (method, path) == ("POST", "/cells")])


def test_magic_sets_the_schedule_and_says_so(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"every_s": 600.0, "cells": 5, "keep": 3}
    assert kernel.run("%checkpoint --every 10m --cells 5 --keep 3").strip() == (
        "Automatic checkpoints every 10m and after every 5 cells; the last 3 are kept.")
    assert agent.asked == [("PUT", "/schedule", {"every": "10m", "cells": 5, "keep": 3})]
    agent.schedule = {"every_s": 600.0, "cells": None, "keep": 5, "keep_hourly": 24,
                      "keep_daily": 7}
    assert kernel.run("%checkpoint --keep-hourly 24 --keep-daily 7").strip() == (
        "Automatic checkpoints every 10m; the last 5 are kept, and the newest of each of the "
        "last 24 hours and 7 days.")
    assert agent.asked[-1] == ("PUT", "/schedule", {"keep_hourly": 24, "keep_daily": 7})
    agent.schedule = {"every_s": None, "cells": None, "keep": None}
    assert kernel.run("%checkpoint --off").strip() == "No automatic checkpoints."
    assert agent.asked[-1] == ("PUT", "/schedule", {"off": True})


@pytest.mark.parametrize("words", [
    "--cells few", "--keep-hour 1", "--keep 1.5", "--every", "--list before", "--list --off"])
def test_words_that_make_no_schedule(
        kernel: InjectedKernel, agent: FakeAgent, words: str) -> None:
    assert "UsageError" in kernel.run(f"%checkpoint {words}")
    assert agent.asked == []


def test_a_schedule_alone_returns_an_object_that_says_so_once(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"every_s": 600.0, "cells": None, "keep": 5}
    told = "Automatic checkpoints every 10m; the last 5 are kept."
    assert kernel.run("%checkpoint --every 10m").strip() == told
    assert kernel.run("set_to = %checkpoint --every 10m").strip() == told
    assert kernel.value("[set_to.id, set_to.restored]") == [None, False]
    assert kernel.value("set_to.schedule['every_s']") == 600.0
    assert kernel.run("set_to").strip() == told
    assert [path for _, path, _ in agent.asked] == ["/schedule"] * 2


def test_name_and_schedule_together_save_now_and_set_it(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"every_s": 600.0, "cells": None, "keep": 5}
    msg_id = kernel.start('here = %checkpoint before training --note "lr 0.1" --every 10m')
    request_id = agent.request_id()
    kernel.op("finished", request_id=request_id, result=manifest(), error=None)
    text = text_of(kernel.finish(msg_id))
    assert "Automatic checkpoints every 10m" in text
    assert "saved" in text
    assert kernel.value("here.id") == manifest()["id"]
    (schedule, save) = [asked for asked in agent.asked if asked[0] == "PUT"]
    assert schedule == ("PUT", "/schedule", {"every": "10m"})
    assert (save[2]["name"], save[2]["note"]) == ("before training", "lr 0.1")


def test_schedule_that_is_refused_saves_nothing(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.refusal = (400, {"error": {"id": "usage", "message": "That is too often."}})
    assert "too often" in kernel.run("%checkpoint before --every 1s")
    assert [path for _, path, _ in agent.asked] == ["/schedule"]


def test_refusal_of_the_agent_is_one_line(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.refusal = (400, {"error": {"id": "usage", "message": "That is too often."}})
    text = kernel.run("%checkpoint --every 1s")
    assert text.strip().endswith("That is too often.")
    assert len(text.strip().splitlines()) == 1


def test_every_n_cells_the_agent_is_asked(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"cells": 2}
    kernel.run("%checkpoint --cells 2")
    kernel.run("x = 1")
    assert asked_for_cells(agent) == 0
    kernel.run("x = 2")
    until(lambda: asked_for_cells(agent) == 1, "asked after two cells")
    kernel.run("x = 3")
    kernel.run("1/0")  # a cell that fails is a cell
    until(lambda: asked_for_cells(agent) == 2, "asked after four cells")
    assert kernel.op("status")["cells_run"] == 5


def test_agent_tells_the_number_and_takes_it_back(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"cells": 1}
    assert kernel.op("schedule", scheduled=True, cells=1) == {"ok": True}
    kernel.run("x = 1")
    until(lambda: asked_for_cells(agent) == 1, "asked after a cell")
    agent.schedule = {"cells": None}  # set by somebody else: the answer says so
    kernel.run("x = 2")
    until(lambda: asked_for_cells(agent) == 2, "asked once more")
    until(lambda: kernel.value(LIMIT) is None, "counting no more")
    kernel.op("schedule", scheduled=True, cells=7)
    assert kernel.value(LIMIT) == 7
    kernel.op("schedule", scheduled=False, cells=None)
    assert kernel.value(LIMIT) is None


def test_counting_waits_for_no_agent(kernel: InjectedKernel) -> None:
    kernel.op("schedule", scheduled=True, cells=1)
    assert kernel.run("print('there is no agent')").strip() == "there is no agent"
    assert kernel.value("40 + 2") == 42


def test_cell_that_ends_in_a_quiesced_kernel_asks_afterwards(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"cells": 1}
    kernel.op("schedule", scheduled=True, cells=1)
    assert kernel.op("quiesce", request_id="a-request-1")["ok"]
    kernel.run("x = 1")
    assert asked_for_cells(agent) == 0
    kernel.op("resume", restored=False, request_id="a-request-1")
    until(lambda: asked_for_cells(agent) == 1, "asked when nobody is saving")


def test_failure_is_told_once(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.schedule = {"every_s": 60.0, "cells": None, "last_automatic": {
        "at": "2026-01-01T00:00:00.000Z", "id": None, "error": {"message": "The disk is full."}}}
    kernel.op("schedule", scheduled=True, cells=None)
    sentence = "The last automatic checkpoint failed: The disk is full."
    assert sentence in kernel.run("%checkpoint --list")
    assert sentence not in kernel.run("%checkpoint --list")
    cell = kernel.start("%checkpoint")
    kernel.op("finished", request_id=agent.request_id(), result=manifest(), error=None)
    assert sentence not in text_of(kernel.finish(cell))
