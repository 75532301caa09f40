"""A server dies; the next one shows the same kernels and sessions."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading

import pytest
import requests
from jupyter_harness import Home, Server, StartServer, wait_until

from jupyter_ckpt.procfs import ProcessId

pytest_plugins = ["jupyter_fixtures"]

COUNT = "import time\nfor i in range({n}):\n    print('line', i, flush=True)\n    time.sleep(0.1)\n"


def kernel_pid(home: Home, kernel_id: str, default: int | None = None) -> int:
    """Return the recorded kernel's pid, `default` while none is recorded."""
    kernel = (home.record(kernel_id) or {}).get("kernel")
    if default is not None and kernel is None:
        return default
    return int(kernel["pid"])


def test_killed_server_idle_kernel_and_session_are_shown_again(
    home: Home, start: StartServer
) -> None:
    first = start(home)
    session = first.open_session("a.ipynb")
    kernel_id = session["kernel"]["id"]
    assert first.connect(kernel_id).run("x = 41; print('set')") == "set"
    pid = kernel_pid(home, kernel_id)
    first.kill()

    second = start(home)
    assert [one["id"] for one in second.ok("GET", "/api/kernels")] == [kernel_id]
    found = second.ok("GET", "/api/sessions")
    assert [(one["id"], one["path"]) for one in found] == [(session["id"], "a.ipynb")]
    assert found[0]["kernel"]["execution_state"] == "idle"
    channel = second.connect(kernel_id)
    assert channel.run("x += 1; print(x)") == "42"
    assert kernel_pid(home, kernel_id) == pid


def test_killed_server_running_cell_goes_on_and_websocket_opens_at_once(
    home: Home, start: StartServer
) -> None:
    first = start(home)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    channel = first.connect(kernel_id)
    cell = channel.send(COUNT.format(n=300), "cell-7")
    channel.wait_text(cell, "line 3")
    if not (home.record(kernel_id) or {}).get("injected"):
        pretend_running(home, kernel_id, cell)
    first.kill()

    second = start(home)
    model = second.ok("GET", f"/api/kernels/{kernel_id}")
    assert model["execution_state"] == "busy"
    again = second.connect(kernel_id, channel.session)
    # The cell needs half a minute; without help a websocket waits that long.
    assert again.opened_after_s < 5
    again.wait_text(cell, "line")
    running = second.ok("GET", f"/api/ckpt/kernels/{kernel_id}/running")
    assert running["busy"] is True
    assert running["running"]["msg_id"] == cell
    second.ok("POST", f"/api/kernels/{kernel_id}/interrupt")
    assert "KeyboardInterrupt" in again.result(cell)[0]
    wait_until(lambda: second.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"] == "idle")


def pretend_running(home: Home, kernel_id: str, cell: str) -> None:
    (home.runtime / "ckpt" / kernel_id / "running.json").write_text(json.dumps({
        "busy": True, "recent": [],
        "running": {"msg_id": cell, "cell_id": "cell-7", "outputs": []}}))


def test_adopted_kernel_restarts_after_a_crash_and_on_demand(
    home: Home, start: StartServer
) -> None:
    first = start(home)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    assert first.connect(kernel_id).run("x = 1; print(x)") == "1"
    first.kill()
    second = start(home)
    assert second.connect(kernel_id).run("print(x)") == "1"

    old = kernel_pid(home, kernel_id)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: kernel_pid(home, kernel_id, default=old) != old,
               30, "the restarter starts a new kernel")
    assert wait_for_answer(second, kernel_id, "print('x' in globals())") == "False"

    old = kernel_pid(home, kernel_id)
    second.ok("POST", f"/api/kernels/{kernel_id}/restart")
    assert kernel_pid(home, kernel_id) != old
    assert wait_for_answer(second, kernel_id, "print('x' in globals())") == "False"

    # A restarted kernel belongs to its session still.
    second.kill()
    third = start(home)
    assert [(one["path"], one["kernel"]["id"]) for one in third.ok("GET", "/api/sessions")] == [
        ("a.ipynb", kernel_id)]


def wait_for_answer(server: Server, kernel_id: str, code: str) -> str:
    return server.connect(kernel_id).run(code)


def test_session_renamed_and_deleted_is_recorded_when_it_happens(
    home: Home, start: StartServer
) -> None:
    server = start(home)
    session = server.open_session("a.ipynb")
    kernel_id = session["kernel"]["id"]
    record = home.record(kernel_id)
    assert record is not None
    assert record["session"] == {key: session[key] for key in ("id", "path", "name", "type")}
    assert record["notebook"] == str(home.notebooks / "a.ipynb")
    assert record["owner"]["pid"] == server.process.pid

    server.ok("PATCH", f"/api/sessions/{session['id']}", {"path": "b.ipynb", "name": "b.ipynb"})
    record = home.record(kernel_id)
    assert record is not None
    assert (record["session"]["path"], record["notebook"]) == (
        "b.ipynb", str(home.notebooks / "b.ipynb"))

    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204
    assert home.records() == []
    assert list(home.runtime.glob("kernel-*.json")) == []


def test_console_beside_a_notebook_does_not_take_its_place(
    home: Home, start: StartServer
) -> None:
    home.write_notebook("a.ipynb", "x")
    first = start(home)
    notebook = first.open_session("a.ipynb")
    kernel_id = notebook["kernel"]["id"]
    console = first.ok("POST", "/api/sessions", {
        "path": "console-1-uuid", "name": "Console 1", "type": "console",
        "kernel": {"id": kernel_id}})
    record = home.record(kernel_id)
    assert record is not None
    assert (record["session"]["id"], record["notebook"]) == (
        notebook["id"], str(home.notebooks / "a.ipynb"))
    saved = first.save(kernel_id)["result"]
    assert saved["notebook"]["path"] == str(home.notebooks / "a.ipynb")
    first.kill()

    second = start(home)
    assert {(one["id"], one["type"], one["kernel"]["id"])
            for one in second.ok("GET", "/api/sessions")} == {
        (notebook["id"], "notebook", kernel_id), (console["id"], "console", kernel_id)}

    # The notebook turns to another kernel; the console stays with this one.
    second.ok("PATCH", f"/api/sessions/{notebook['id']}", {"kernel": {"id": None,
                                                                     "name": "python3"}})
    if record := home.record(kernel_id):  # Jupyter may have ended it
        assert (record["session"]["id"], record["notebook"]) == (console["id"], None)


def test_kernel_whose_server_died_before_it_had_a_session_gets_one_for_its_notebook(
    fake_home: Home, start: StartServer
) -> None:
    first = start(fake_home)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    first.kill()
    path = fake_home.runtime / "ckpt" / kernel_id / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "session": None}))
    second = start(fake_home)
    assert [(one["path"], one["name"], one["kernel"]["id"])
            for one in second.ok("GET", "/api/sessions")] == [("a.ipynb", "a.ipynb", kernel_id)]
    assert second.open_session("a.ipynb")["kernel"]["id"] == kernel_id
    record = fake_home.record(kernel_id)
    assert record is not None
    assert record["session"]["path"] == "a.ipynb"


def test_server_of_another_folder_adopts_nothing(fake_home: Home, start: StartServer) -> None:
    first = start(fake_home)
    first.open_session("a.ipynb")
    first.kill()
    other = fake_home.folder / "other"
    other.mkdir()
    second = start(fake_home, root_dir=other)
    assert second.ok("GET", "/api/kernels") == []
    third = start(fake_home)
    assert len(third.ok("GET", "/api/kernels")) == 1


def test_kernel_of_a_living_server_is_left_to_it(fake_home: Home, start: StartServer) -> None:
    first = start(fake_home)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    second = start(fake_home)
    assert second.ok("GET", "/api/kernels") == []
    assert first.connect(kernel_id).run("print(1)") == "1"


@pytest.mark.parametrize("busy", [False, True])
def test_kernel_of_another_language_is_asked_itself_whether_it_is_busy(
    fake_home: Home, start: StartServer, busy: bool
) -> None:
    first = start(fake_home)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    channel = first.connect(kernel_id)
    assert channel.run("print(1)") == "1"
    if busy:
        channel.wait_text(channel.send(COUNT.format(n=300)), "line 1")
    (fake_home.runtime / "ckpt" / kernel_id / "running.json").write_text(
        json.dumps({"busy": None, "running": None, "recent": []}))
    first.kill()
    second = start(fake_home)
    model = second.ok("GET", f"/api/kernels/{kernel_id}")
    assert model["execution_state"] == ("busy" if busy else "idle")
    assert second.connect(kernel_id).opened_after_s < 5


def test_two_servers_started_at_once_share_the_kernels(
    fake_home: Home, start: StartServer
) -> None:
    first = start(fake_home)
    expected = {first.open_session(f"{n}.ipynb")["kernel"]["id"] for n in range(3)}
    first.kill()
    started: list[Server] = []
    threads = [threading.Thread(target=lambda: started.append(start(fake_home)))
               for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = [{one["id"] for one in server.ok("GET", "/api/kernels")} for server in started]
    assert shown[0] | shown[1] == expected
    assert not shown[0] & shown[1]


def test_corrupt_and_stale_records_are_passed_over(fake_home: Home, start: StartServer) -> None:
    first = start(fake_home)
    good = first.open_session("a.ipynb")["kernel"]["id"]
    dead = first.open_session("b.ipynb")["kernel"]["id"]
    first.kill()
    os.kill(kernel_pid(fake_home, dead), signal.SIGKILL)
    bad = fake_home.runtime / "ckpt" / "bad-kernel-record"
    bad.mkdir()
    (bad / "record.json").write_text("{")
    unreadable = fake_home.runtime / "ckpt" / good
    second = start(fake_home)
    assert [one["id"] for one in second.ok("GET", "/api/kernels")] == [good]
    assert unreadable.exists()
    assert "bad-kernel-record" in second.log.read_text()


def test_kernel_without_connection_file_costs_the_others_nothing(
    fake_home: Home, start: StartServer
) -> None:
    first = start(fake_home)
    good = first.open_session("a.ipynb")["kernel"]["id"]
    bad = first.open_session("b.ipynb")["kernel"]["id"]
    assert first.connect(bad).run("print(1)") == "1"  # a starting kernel writes its file, too
    first.kill()
    (fake_home.runtime / f"kernel-{bad}.json").unlink()
    second = start(fake_home)
    assert [one["id"] for one in second.ok("GET", "/api/kernels")] == [good]
    assert f"Kernel {bad} could not be adopted" in second.log.read_text()


@pytest.mark.parametrize(("policy", "left"), [("stop", 0), ("leave-running", 1)])
def test_policy_at_shutdown_decides_what_becomes_of_kernels(
    home: Home, start: StartServer, policy: str, left: int
) -> None:
    first = start(home, f"--CheckpointApp.on_shutdown={policy}")
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    assert first.connect(kernel_id).run("x = 7; print(x)") == "7"
    first.stop()
    assert len(home.records()) == left
    second = start(home)
    kernels = [one["id"] for one in second.ok("GET", "/api/kernels")]
    assert kernels == [kernel_id] * left
    if left:
        assert second.connect(kernel_id).run("print(x)") == "7"


def test_save_and_stop_saves_then_ends(home: Home, start: StartServer) -> None:
    first = start(home, "--CheckpointApp.on_shutdown=save-and-stop")
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    assert first.connect(kernel_id).run("x = 7; print(x)") == "7"
    first.stop()
    assert home.records() == []
    second = start(home)
    found = second.ok("GET", f"/api/ckpt/checkpoints?kernel_id={kernel_id}")
    assert [one["trigger"] for one in found] == ["shutdown"]


def test_save_and_stop_leaves_a_kernel_running_that_cannot_be_saved(
    fake_home: Home, start: StartServer
) -> None:
    first = start(fake_home, "--CheckpointApp.on_shutdown=save-and-stop")
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    fake_home.fail_next(kernel_id, id="out-of-space", message="The disk is full.")
    first.stop()
    second = start(fake_home)
    assert [one["id"] for one in second.ok("GET", "/api/kernels")] == [kernel_id]


def test_twenty_kernels_are_adopted_together(fake_home: Home, start: StartServer) -> None:
    first = start(fake_home)
    expected = {first.ok("POST", "/api/kernels", {"name": "python3"})["id"] for _ in range(20)}
    first.kill()
    second = start(fake_home)
    assert {one["id"] for one in second.ok("GET", "/api/kernels")} == expected
    assert "Adopted 20 living kernels" in second.log.read_text()


def test_shutdown_while_a_kernel_restarts_ends_the_server(home: Home, start: StartServer) -> None:
    server = start(home)
    kernel_id = server.open_session("a.ipynb")["kernel"]["id"]
    server.connect(kernel_id).run("x = 1")
    old = ProcessId.of(kernel_pid(home, kernel_id))
    assert old is not None
    restarting = threading.Thread(target=_restart_and_forget, args=(server, kernel_id))
    restarting.start()
    wait_until(lambda: not old.is_alive(), 30, "the old kernel ends")
    server.stop()
    restarting.join()
    assert home.record(kernel_id) is None


def _restart_and_forget(server: Server, kernel_id: str) -> None:
    with contextlib.suppress(requests.RequestException):
        server.request("POST", f"/api/kernels/{kernel_id}/restart")
