"""Sessions that are saved and ended, and come back when their notebook is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from fault_plan import FaultPlan
from jupyter_harness import Events, Home, Server, StartServer, wait_until

from jupyter_ckpt.agent.retention import may_go
from jupyter_ckpt.store import Store

pytest_plugins = ["jupyter_fixtures"]

CULL = ("--MappingKernelManager.cull_idle_timeout=3", "--MappingKernelManager.cull_interval=1")
SLOW_CULL = ("--MappingKernelManager.cull_idle_timeout=5", CULL[1])
"""For real kernels: a start that is slow is not idleness."""
SAVE_AND_STOP = "--CheckpointApp.on_shutdown=save-and-stop"


def kernels(server: Server) -> list[str]:
    return [one["id"] for one in server.ok("GET", "/api/kernels")]


def checkpoints(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ok("GET", "/api/ckpt/checkpoints?notebook=a.ipynb")
    return found


def use(server: Server, kernel_id: str, code: str) -> str:
    """Run a cell as a browser that leaves again."""
    channel = server.connect(kernel_id)
    try:
        return channel.run(code)
    finally:
        channel.close()


def opened(server: Server) -> str:
    """Open the notebook; return the id of its kernel."""
    return str(server.open_session("a.ipynb")["kernel"]["id"])


def parked(home: Home, start: StartServer) -> dict[str, Any]:
    """Have a session with ``x = 7`` parked by a server that ended; return its checkpoint."""
    home.write_notebook("a.ipynb", "x")
    server = start(home, SAVE_AND_STOP)
    assert use(server, opened(server), "x = 7; print(x)") == "7"
    server.stop()
    [found] = Store.open(home.folder / "data" / "ckpt").manifests()
    assert found.parked
    return found.to_dict()


# -- culling ------------------------------------------------------------------------------
def test_culled_session_comes_back_as_often_as_it_is_culled(
    real_home: Home, start: StartServer
) -> None:
    real_home.write_notebook("a.ipynb", "x")
    server = start(real_home, *SLOW_CULL)
    events = Events(server)
    first = opened(server)
    assert use(server, first, "x = 7; print(x)") == "7"
    wait_until(lambda: not kernels(server), 60, "the idle kernel is culled")
    [saved] = checkpoints(server)
    assert (saved["trigger"], saved["parked"], saved["kernel"]["id"]) == ("cull", True, first)
    assert events.last("park", "succeeded")["checkpoint_id"] == saved["id"]

    second = opened(server)
    told = events.last("revive", "succeeded")
    assert (told["kernel_id"], told["checkpoint_id"], told["trigger"], told["notebook"]) == (
        second, saved["id"], "cull", "a.ipynb")
    assert told["checkpoint_created_at"] == saved["created_at"]
    assert not checkpoints(server)[0]["parked"]
    wait_until(lambda: not kernels(server), 60, "it is culled again")
    # The one it came from is of another kernel, and does not stand for this one.
    assert [(one["kernel"]["id"], one["parked"]) for one in checkpoints(server)] == [
        (second, True), (first, False)]

    third = opened(server)
    channel = server.connect(third)
    assert channel.run("print(x)") == "7"
    server.ok("POST", f"/api/kernels/{third}/restart")
    assert server.connect(third).run("print('x' in globals())") == "False"


@pytest.mark.parametrize("kind", ["console", "no session", "file gone"])
def test_kernel_without_a_notebook_is_saved_and_not_parked(
    real_home: Home, start: StartServer, kind: str
) -> None:
    server = start(real_home, *SLOW_CULL)
    events = Events(server)
    if kind == "console":
        kernel_id = server.ok("POST", "/api/sessions", {
            "path": "console-1-uuid", "name": "Console 1", "type": "console",
            "kernel": {"name": "python3"}})["kernel"]["id"]
    elif kind == "no session":
        kernel_id = server.ok("POST", "/api/kernels", {"name": "python3"})["id"]
    else:
        path = real_home.write_notebook("a.ipynb", "x")
        kernel_id = opened(server)
        path.unlink()
    assert use(server, kernel_id, "x = 7; print(x)") == "7"
    wait_until(lambda: not kernels(server), 60, "the idle kernel is culled")
    [saved] = server.ok("GET", "/api/ckpt/checkpoints")
    assert (saved["trigger"], saved["parked"]) == ("cull", False)
    assert may_go(Store.open(real_home.folder / "data" / "ckpt").resolve(saved["id"]))
    told = events.last("park", "succeeded")
    assert f"'jupyter ckpt restore {saved['id']}'" in told["message"]
    assert "opening its notebook" not in server.log.read_text()


def test_kernel_that_cannot_be_saved_is_not_culled(fake_home: Home, start: StartServer) -> None:
    fake_home.write_notebook("a.ipynb", "x")
    server = start(fake_home, *CULL)
    events = Events(server)
    kernel_id = opened(server)
    fake_home.fail_next(kernel_id, id="out-of-space", message="The disk is full.")
    assert events.last("park", "failed")["error"]["message"] == "The disk is full."
    # At a later round it can be, and goes.
    wait_until(lambda: not kernels(server), 60, "it is culled")
    assert [one["phase"] for one in events.seen if one["action"] == "park"][:3] == [
        "started", "failed", "started"]
    assert [one["parked"] for one in checkpoints(server)] == [True]


def test_kernel_that_is_used_while_it_is_saved_is_not_culled(
    fake_home: Home, start: StartServer
) -> None:
    server = start(fake_home, *CULL)
    events = Events(server)
    kernel_id = opened(server)
    hold = fake_home.runtime / "ckpt" / kernel_id / "hold"
    hold.touch()
    events.phases("park", "started")
    channel = server.connect(kernel_id)
    assert channel.run("print(1)") == "1"
    hold.unlink()
    assert "in use again" in events.last("park", "succeeded")["message"]
    assert kernels(server) == [kernel_id]
    assert [one["parked"] for one in checkpoints(server)] == [False]


def test_kernel_whose_save_hangs_holds_up_no_other(fake_home: Home, start: StartServer) -> None:
    server = start(fake_home, *CULL)
    events = Events(server)
    hangs = opened(server)
    hold = fake_home.runtime / "ckpt" / hangs / "hold"
    hold.touch()
    events.phases("park", "started")
    server.open_session("b.ipynb")
    wait_until(lambda: kernels(server) == [hangs], 15, "the other kernel is culled")
    assert [one["phase"] for one in events.seen
            if one["action"] == "park" and one["kernel_id"] == hangs] == ["started"]
    hold.unlink()
    wait_until(lambda: not kernels(server), 60, "it is culled, too")


def test_policy_stop_culls_without_saving(fake_home: Home, start: StartServer) -> None:
    server = start(fake_home, *CULL, "--CheckpointApp.on_cull=stop")
    opened(server)
    wait_until(lambda: not kernels(server), 60, "it is culled")
    assert checkpoints(server) == []


# -- shutdown -----------------------------------------------------------------------------
def test_session_of_a_server_that_was_terminated_comes_back(
    real_home: Home, start: StartServer
) -> None:
    real_home.write_notebook("a.ipynb", "x")
    first = start(real_home, SAVE_AND_STOP)
    kernel_id = opened(first)
    assert use(first, kernel_id, "x = 7; print(x)") == "7"
    first.open_session("never-used.ipynb")
    [by_hand] = [first.save(kernel_id)["result"]]
    first.stop()
    assert real_home.records() == []

    second = start(real_home, SAVE_AND_STOP)
    # Nothing went on since it was saved by hand; nothing ever did in the other.
    assert [(one["id"], one["parked"]) for one in second.ok("GET", "/api/ckpt/checkpoints")] == [
        (by_hand["id"], True)]
    busy = opened(second)
    channel = second.connect(busy)
    assert channel.run("print(x)") == "7"
    cell = channel.send("import time\nfor i in range(10**6):\n"
                        "    print('line', i, flush=True); time.sleep(.1)")
    channel.wait_text(cell, "line 2")
    second.stop()

    third = start(real_home)
    goes_on = opened(third)
    assert third.ok("GET", f"/api/kernels/{goes_on}")["execution_state"] == "busy"
    again = third.connect(goes_on, channel.session)
    assert again.opened_after_s < 5
    again.wait_text(cell, "line")


def test_kernel_that_is_not_saved_in_time_is_left_running(
    real_home: Home, start: StartServer, tmp_path: Path
) -> None:
    plan = FaultPlan(tmp_path / "plan")
    first = start(real_home, SAVE_AND_STOP, "--CheckpointApp.shutdown_budget_s=1",
                  **plan.environment)
    kernel_id = opened(first)
    assert use(first, kernel_id, "x = 7; print(x)") == "7"
    plan.arm({"point": "save.begun", "act": "hang"})
    first.stop()
    assert "was not saved in time" in first.log.read_text()
    plan.disarm()
    second = start(real_home)
    assert kernels(second) == [kernel_id]
    assert use(second, kernel_id, "print(x)") == "7"


def test_server_killed_between_mark_and_end_leaves_a_kernel_that_is_not_parked(
    real_home: Home, start: StartServer, tmp_path: Path
) -> None:
    plan = FaultPlan(tmp_path / "plan")
    plan.arm({"point": "park.marked", "act": "kill"})
    real_home.write_notebook("a.ipynb", "x")
    first = start(real_home, SAVE_AND_STOP, **plan.environment)
    kernel_id = opened(first)
    assert use(first, kernel_id, "x = 7; print(x)") == "7"
    first.stop()
    assert plan.fired()
    second = start(real_home)
    assert use(second, kernel_id, "x += 1; print(x)") == "8"
    assert [one["parked"] for one in checkpoints(second)] == [False]


# -- coming back --------------------------------------------------------------------------
def test_session_that_cannot_come_back_is_never_silently_fresh(
    real_home: Home, start: StartServer
) -> None:
    saved = parked(real_home, start)
    store = real_home.folder / "data" / "ckpt"
    for chunk in (store / "chunks").rglob("*"):
        if chunk.is_file():
            os.truncate(chunk, chunk.stat().st_size // 2)
    server = start(real_home)
    events = Events(server)
    kernel_id = opened(server)
    told = events.last("revive", "failed")
    assert (told["checkpoint_id"], told["error"]["code"]) == (saved["id"], 7)
    assert f"could not be brought back from checkpoint {saved['id']}" in server.log.read_text()
    assert f"jupyter ckpt restore {saved['id']}" in told["error"]["hint"]
    assert use(server, kernel_id, "print('x' in globals())") == "False"
    assert not checkpoints(server)[0]["parked"]
    # No promise any more, but an offer: what is offered is not tidied away.
    assert events.last("offer", "succeeded")["checkpoint_id"] == saved["id"]
    [offer] = server.ok("GET", "/api/ckpt/offers?notebook=a.ipynb")
    assert (offer["checkpoint"], offer["kernel_id"]) == (saved["id"], saved["kernel"]["id"])


def test_two_servers_that_open_one_notebook_bring_it_back_once(
    real_home: Home, start: StartServer
) -> None:
    parked(real_home, start)
    servers = [start(real_home), start(real_home)]
    found: dict[Server, str] = {}
    threads = [threading.Thread(target=lambda one=one: found.update({one: opened(one)}))
               for one in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = sorted(use(one, found[one], "print('x' in globals())") for one in servers)
    assert answers == ["False", "True"]


def test_page_that_is_reloaded_while_a_session_comes_back_gets_that_session(
    real_home: Home, start: StartServer, tmp_path: Path
) -> None:
    parked(real_home, start)
    plan = FaultPlan(tmp_path / "plan")
    plan.arm({"point": "restore.running", "act": "hang"})
    server = start(real_home, **plan.environment)
    with suppress(requests.Timeout):  # the page is left
        server.request("POST", "/api/sessions", {
            "path": "a.ipynb", "name": "a.ipynb", "type": "notebook",
            "kernel": {"name": "python3"}}, timeout=2)
    wait_until(plan.fired, 60, "the restore hangs")
    found: list[str] = []
    again = [threading.Thread(target=lambda: found.append(opened(server))) for _ in range(2)]
    for thread in again:
        thread.start()
    assert server.ok("GET", "/api/sessions") == []
    plan.disarm()
    for thread in again:
        thread.join()
    [kernel_id] = kernels(server)
    assert found == [kernel_id, kernel_id]
    assert use(server, kernel_id, "print(x)") == "7"
    assert [one["path"] for one in server.ok("GET", "/api/sessions")] == ["a.ipynb"]


def test_batch_run_of_a_parked_notebook_starts_fresh(real_home: Home, start: StartServer) -> None:
    saved = parked(real_home, start)
    path = real_home.write_notebook("a.ipynb", "print('x' in globals())")
    subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", str(path)], check=True,
        env={**real_home.env, "JUPYTER_DEFAULT_PROVISIONER_NAME": "ckpt-provisioner",
             "JPY_SESSION_NAME": str(path)}, capture_output=True, timeout=180)
    [output] = json.loads(path.read_text())["cells"][0]["outputs"]
    assert "".join(output["text"]) == "False\n"
    assert Store.open(real_home.folder / "data" / "ckpt").resolve(saved["id"]).parked
