"""The journal on a real kernel: every way a cell can put something out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from inkernel_harness import InjectedKernel, until

from jupyter_ckpt.inkernel.journal import Journal


@pytest.fixture(scope="module")
def kernel() -> Iterator[InjectedKernel]:
    kernel = InjectedKernel()
    yield kernel
    kernel.close()


def outputs(kernel: InjectedKernel, code: str) -> list[dict[str, Any]]:
    msg_id = kernel.start(code)
    kernel.finish(msg_id)
    recent = {r["msg_id"]: r for r in kernel.op("running")["recent"]}
    found: list[dict[str, Any]] = recent[msg_id]["outputs"]
    return found


def test_streams_results_and_errors_are_notebook_outputs(kernel: InjectedKernel) -> None:
    import nbformat

    found = outputs(kernel, "import sys; print('a'); print('b', file=sys.stderr, flush=True)\n"
                            "display({'k': 1})\n1/0")
    kinds = [o["output_type"] for o in found]
    assert kinds == ["stream", "stream", "display_data", "error"]
    assert found[3]["ename"] == "ZeroDivisionError"
    found += outputs(kernel, "40 + 2")
    assert found[-1]["data"] == {"text/plain": "42"}
    assert found[-1]["execution_count"] == kernel.op("status")["execution_count"]
    cell: dict[str, Any] = {"cell_type": "code", "id": "a", "metadata": {}, "source": "",
            "execution_count": None, "outputs": found}
    nbformat.validate({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell]})


def test_cleared_and_updated_displays_are_as_the_user_sees_them(kernel: InjectedKernel) -> None:
    found = outputs(kernel, "from IPython.display import clear_output, display\nprint('gone')\n"
                            "clear_output(wait=True)\nh = display('old', display_id=True)\n"
                            "h.update('new')")
    assert [o["data"] for o in found] == [{"text/plain": "'new'"}]
    msg_id = kernel.start("h.update('newer')")
    kernel.finish(msg_id)
    recent = kernel.op("running")["recent"]
    assert recent[-2]["outputs"][0]["data"] == {"text/plain": "'newer'"}
    assert recent[-1]["outputs"] == []


def test_threads_and_c_level_writes_are_in_the_journal(kernel: InjectedKernel) -> None:
    found = outputs(kernel, "import os, threading, time\n"
                            "t = threading.Thread(target=print, args=('thread',))\n"
                            "t.start(); t.join()")
    assert "thread" in found[0]["text"]


def test_huge_output_is_noted_not_kept(kernel: InjectedKernel) -> None:
    found = outputs(kernel, "from IPython.display import display\n"
                            "display({'text/plain': 'x' * 3_000_000}, raw=True)\nprint('end')")
    assert "not kept here" in found[0]["data"]["text/plain"]
    assert found[1]["text"] == "end\n"
    assert kernel.op("running")["recent"][-1]["partial"] == [0]


def test_silent_requests_are_no_cells(kernel: InjectedKernel) -> None:
    before = kernel.op("running")["recent"]
    kernel.finish(kernel.start("quiet = 1", silent=True))
    assert kernel.op("running")["recent"] == before


def test_cell_id_is_told(kernel: InjectedKernel) -> None:
    message = kernel.client.session.msg("execute_request", {
        "code": "pass", "silent": False, "store_history": True, "user_expressions": {},
        "allow_stdin": False, "stop_on_error": True}, metadata={"cellId": "cell-7"})
    kernel.client.shell_channel.send(message)
    kernel.finish(message["header"]["msg_id"])
    assert kernel.op("running")["recent"][-1]["cell_id"] == "cell-7"


def test_only_the_last_requests_are_kept(kernel: InjectedKernel) -> None:
    for number in range(20):
        kernel.run(f"print({number})")
    recent = kernel.op("running")["recent"]
    assert len(recent) <= 17
    assert recent[-1]["outputs"][0]["text"] == "19\n"


def test_what_widgets_run_is_counted(kernel: InjectedKernel) -> None:
    kernel.finish(kernel.start(
        "seen = []\n"
        "get_ipython().kernel.comm_manager.register_target("
        "'t', lambda comm, message: comm.on_msg(seen.append))"))
    before = kernel.op("status")
    message = kernel.client.session.msg("comm_open", {"comm_id": "c", "target_name": "t",
                                                      "data": {}})
    kernel.client.shell_channel.send(message)
    until(lambda: kernel.op("status")["callbacks_run"] > before["callbacks_run"], "it is counted")
    counted = kernel.op("status")["callbacks_run"]
    kernel.client.shell_channel.send(
        kernel.client.session.msg("comm_msg", {"comm_id": "c", "data": {}}))
    until(lambda: kernel.op("status")["callbacks_run"] > counted, "it is counted")
    assert kernel.op("status")["cells_run"] == before["cells_run"]


@pytest.mark.parametrize(("begin", "end"), [
    ("import threading; e = threading.Event(); t = threading.Thread(target=e.wait); t.start()",
     "e.set(); t.join()"),
    ("import asyncio; t = asyncio.get_running_loop().create_task(asyncio.sleep(1e6))",
     "t.cancel()")])
def test_threads_and_tasks_of_the_user_are_told(
        kernel: InjectedKernel, begin: str, end: str) -> None:
    assert not kernel.op("status")["background"]
    kernel.finish(kernel.start(f"async def f():\n    global e, t\n    {begin}\nawait f()"))
    assert kernel.op("status")["background"]
    kernel.finish(kernel.start(end))
    until(lambda: not kernel.op("status")["background"], "it has ended")


def test_kernels_whose_handlers_are_no_coroutines_run_their_cells() -> None:
    """ipykernel 5: handlers give futures, and coroutines would not be awaited."""
    journal, given = Journal(SimpleNamespace(execution_count=1)), []

    def execute_request(stream: Any, ident: Any, parent: Any) -> Future[None]:
        given.append(Future[None]())
        return given[-1]

    kernel = SimpleNamespace(shell_handlers={"execute_request": execute_request})
    journal.watch_requests(kernel)
    parent = {"header": {"msg_id": "a"}, "content": {"code": "1"}}
    answer = kernel.shell_handlers["execute_request"](None, None, parent)
    assert answer is given[0]
    assert journal.status()["busy"] is True
    answer.set_result(None)
    assert (journal.status()["busy"], journal.status()["cells_run"]) == (False, 1)


def test_request_that_such_a_kernel_refuses_is_over() -> None:
    journal = Journal(SimpleNamespace(execution_count=1))

    def execute_request(stream: Any, ident: Any, parent: Any) -> None:
        raise ValueError("malformed")

    kernel = SimpleNamespace(shell_handlers={"execute_request": execute_request})
    journal.watch_requests(kernel)
    with pytest.raises(ValueError, match="malformed"):
        kernel.shell_handlers["execute_request"](None, None, {"header": {"msg_id": "a"}})
    assert journal.status()["busy"] is False


def test_journal_that_watches_no_requests_says_that_it_does_not_know() -> None:
    journal = Journal(SimpleNamespace(execution_count=4))
    status = journal.status()
    assert (status["busy"], status["cells_run"], status["running"]) == (None, None, None)
    assert status["execution_count"] == 3
    journal.watch_requests(SimpleNamespace(shell_handlers={"execute_request": None}))
    assert (journal.status()["busy"], journal.status()["cells_run"]) == (False, 0)
