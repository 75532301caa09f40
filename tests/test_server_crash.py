"""A kernel crashes behind a server: what is offered, and what comes back by itself."""

from __future__ import annotations

import os
import signal
from typing import Any

from jupyter_harness import Events, Home, Server, StartServer, wait_until

pytest_plugins = ["jupyter_fixtures"]


def offers(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ok("GET", "/api/ckpt/offers")
    return found


def begun(home: Home, server: Server) -> tuple[str, str]:
    """Open a session with ``x = 7``, save it; return the ids of kernel and checkpoint."""
    home.write_notebook("a.ipynb", "x")
    kernel_id = str(server.open_session("a.ipynb")["kernel"]["id"])
    channel = server.connect(kernel_id)
    assert channel.run("x = 7; print(x)") == "7"
    channel.close()
    return kernel_id, str(server.save(kernel_id)["result"]["id"])


def crash(home: Home, kernel_id: str, *others: str, by: int = signal.SIGKILL) -> None:
    """Kill a kernel (and the named others of its record) and see the next one through."""
    record = home.record(kernel_id)
    assert record is not None
    for name in (*others, "kernel"):
        os.kill(record[name]["pid"], by)
    wait_until(lambda: (home.record(kernel_id) or record)["kernel"] not in (
        None, record["kernel"]), 60, "another kernel runs")


def x(server: Server, kernel_id: str) -> str:
    channel = server.connect(kernel_id)
    try:
        return channel.run("print(globals().get('x'))")
    finally:
        channel.close()


def test_crash_is_offered_until_it_is_restored_or_dismissed(
    real_home: Home, start: StartServer
) -> None:
    server = start(real_home)
    events = Events(server)
    kernel_id, saved = begun(real_home, server)
    crash(real_home, kernel_id)
    [offer] = offers(server)
    assert (offer["kernel_id"], offer["notebook"], offer["checkpoint"]) == (
        kernel_id, str(real_home.notebooks / "a.ipynb"), saved)
    assert offer["how"].startswith("killed by signal 9")
    told = events.last("offer", "succeeded")
    assert (told["kernel_id"], told["notebook"], told["how"]) == (
        kernel_id, "a.ipynb", offer["how"])
    assert server.ok("GET", "/api/ckpt/offers?notebook=a.ipynb") == [offer]
    assert server.ok("GET", "/api/ckpt/offers?notebook=b.ipynb") == []
    assert x(server, kernel_id) == "None"

    server.ok("POST", f"/api/ckpt/checkpoints/{saved}/restore", {"mode": "in-place"})
    assert offers(server) == []
    assert x(server, kernel_id) == "7"

    # Also with its agent gone, which would have seen it.
    crash(real_home, kernel_id, "agent", by=signal.SIGKILL)
    assert [one["checkpoint"] for one in offers(server)] == [saved]
    assert server.request("DELETE", f"/api/ckpt/offers/{kernel_id}").status_code == 204
    assert offers(server) == []


def test_planned_ends_are_not_offered(real_home: Home, start: StartServer) -> None:
    server = start(real_home)
    kernel_id, _ = begun(real_home, server)
    server.ok("POST", f"/api/kernels/{kernel_id}/restart")
    assert x(server, kernel_id) == "None"
    # One that crashes while it ends, as some do.
    channel = server.connect(kernel_id)
    channel.run("import atexit, os; atexit.register(os.kill, os.getpid(), 11)")
    server.ok("DELETE", f"/api/kernels/{kernel_id}")
    assert offers(server) == []


def test_crash_is_restored_by_itself_once_for_each_checkpoint(
    real_home: Home, start: StartServer
) -> None:
    server = start(real_home, "--CheckpointApp.on_crash=restore")
    events = Events(server)
    kernel_id, saved = begun(real_home, server)
    # Also soon after its start, when Jupyter would choose other ports.
    crash(real_home, kernel_id)
    told = events.last("revive", "succeeded")
    assert (told["checkpoint_id"], told["reason"]) == (saved, "crash")
    assert x(server, kernel_id) == "7"
    assert offers(server) == []

    crash(real_home, kernel_id, by=signal.SIGSEGV)
    assert x(server, kernel_id) == "None"
    assert [one["checkpoint"] for one in offers(server)] == [saved]
    assert f"checkpoint {saved} was restored after a crash before" in server.log.read_text()

    server.ok("POST", f"/api/ckpt/checkpoints/{saved}/restore", {"mode": "in-place"})
    again = str(server.save(kernel_id)["result"]["id"])
    crash(real_home, kernel_id)
    wait_until(lambda: [one for one in events.seen if one["action"] == "revive"
                        and one["checkpoint_id"] == again and one["phase"] == "succeeded"], 30)
    assert x(server, kernel_id) == "7"


def test_sessions_that_nobody_survived_are_offered_by_the_next_server(
    real_home: Home, start: StartServer
) -> None:
    first = start(real_home)
    kernel_id, saved = begun(real_home, first)
    record = real_home.record(kernel_id)
    assert record is not None
    first.kill()
    for name in ("agent", "init"):
        os.kill(record[name]["pid"], signal.SIGKILL)
    second = start(real_home)
    assert [(one["checkpoint"], one["how"]) for one in offers(second)] == [
        (saved, "everything was killed")]
    assert real_home.records() == []
    assert second.ok("GET", "/api/kernels") == []
    restored = second.ok("POST", f"/api/ckpt/checkpoints/{saved}/restore", {"mode": "in-place"})
    assert x(second, restored["kernel_id"]) == "7"
    assert offers(second) == []
