"""Saving, restoring and forking behind Jupyter's kernels, sessions and events."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from typing import Any

import pytest
import server_fakes
from jupyter_harness import Channel, Events, Home, Server, StartServer, wait_until

from jupyter_ckpt.procfs import ProcessId

pytest_plugins = ["jupyter_fixtures"]

COUNT = "import time\nfor i in range({n}):\n    print('line', i, flush=True)\n    time.sleep(0.1)\n"


def restore(server: Server, checkpoint: str, mode: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.ok(
        "POST", f"/api/ckpt/checkpoints/{checkpoint}/restore", {"mode": mode, **more})
    return found


def started(home: Home, start: StartServer, name: str = "a.ipynb") -> tuple[Server, str, Channel]:
    home.write_notebook(name, "x = 1")
    server = start(home)
    kernel_id = server.open_session(name)["kernel"]["id"]
    return server, kernel_id, server.connect(kernel_id)


# -- saving ---------------------------------------------------------------------------
def test_save_tells_progress_and_keeps_the_document(home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(home, start)
    events = Events(server)
    job = server.ok("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints",
                    {"name": "the first", "note": "a note", "pin": True})
    assert (job["kind"], job["kernel_id"]) == ("save", kernel_id)
    done = server.finished_job(job["id"])
    assert done["state"] == "done", done["error"]
    manifest = done["result"]
    assert (manifest["name"], manifest["note"], manifest["pinned"]) == ("the first", "a note", True)
    assert manifest["trigger"] == "api"
    phases = events.phases("save", "succeeded")
    assert phases[0] == "started"
    assert "progress" in phases
    last = events.seen[-1]
    assert (last["job_id"], last["checkpoint_id"]) == (job["id"], manifest["id"])
    document = server.ok("GET", f"/api/ckpt/checkpoints/{manifest['id']}/notebook")
    assert "".join(document["cells"][0]["source"]) == "x = 1"


def test_same_request_id_saves_once(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(fake_home, start)
    request_id = uuid.uuid4().hex
    first = server.save(kernel_id, request_id=request_id)
    again = server.save(kernel_id, request_id=request_id)
    assert first["result"]["id"] == again["result"]["id"]
    assert len(server.ok("GET", "/api/ckpt/checkpoints")) == 1


def test_save_asked_for_again_after_the_server_was_replaced_answers_its_checkpoint(
    real_home: Home, start: StartServer
) -> None:
    first, kernel_id, _ = started(real_home, start)
    asked = {"name": "the first", "request_id": uuid.uuid4().hex}
    made = first.save(kernel_id, **asked)["result"]
    first.kill()
    second = start(real_home)
    again = second.ok("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints", asked)
    assert (again["id"], again["state"], again["result"]["id"]) == (
        asked["request_id"], "done", made["id"])
    # Also when the kernel has ended since; another request for the name is refused.
    refused = second.request("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints",
                             {"name": "the first"})
    assert refused.status_code == 409
    second.ok("DELETE", f"/api/kernels/{kernel_id}")
    assert second.save(kernel_id, **asked)["result"]["id"] == made["id"]
    assert len(second.ok("GET", "/api/ckpt/checkpoints")) == 1


def test_save_that_fails_leaves_the_kernel_and_tells_why(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(fake_home, start)
    events = Events(server)
    fake_home.fail_next(kernel_id, id="out-of-space", code=5, message="The disk is full.",
                        hint="Make room.")
    job = server.save(kernel_id)
    assert job["state"] == "failed"
    assert (job["error"]["id"], job["error"]["hint"]) == ("out-of-space", "Make room.")
    events.phases("save", "failed")
    assert events.seen[-1]["error"]["message"] == "The disk is full."
    assert channel.run("print(2)") == "2"
    assert server.ok("GET", "/api/ckpt/checkpoints") == []


def test_save_in_progress_blocks_nobody(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, channel = started(fake_home, start)
    hold = fake_home.runtime / "ckpt" / kernel_id / "hold"
    hold.touch()
    jobs = [server.ok("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints", {})
            for _ in range(8)]
    assert channel.run("print(2)") == "2"
    wait_until(lambda: server.ok("GET", f"/api/ckpt/jobs/{jobs[0]['id']}")["state"] == "dumping")
    hold.unlink()
    assert {server.finished_job(job["id"])["state"] for job in jobs} == {"done"}


def test_job_is_known_to_the_next_server(home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(home, start)
    job = server.save(kernel_id)
    assert job["state"] == "done", job["error"]
    server.kill()
    found = start(home).ok("GET", f"/api/ckpt/jobs/{job['id']}")
    assert (found["state"], found["kernel_id"], found["kind"]) == ("done", kernel_id, "save")
    assert found["result"]["id"] == job["result"]["id"]


def test_taken_name_is_refused_before_anything_starts(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(fake_home, start)
    server.save(kernel_id, name="one name")
    answer = server.request("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints",
                            {"name": "one name"})
    assert (answer.status_code, answer.json()["error"]["id"]) == (409, "name-taken")


# -- restoring in place -----------------------------------------------------------------
def test_restore_in_place_keeps_kernel_session_ports_and_websocket(
    home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(home, start)
    session = server.ok("GET", "/api/sessions")[0]
    channel.run("x = 5")
    saved = server.save(kernel_id)["result"]
    channel.run("x = 6")
    connection = json.loads((home.runtime / f"kernel-{kernel_id}.json").read_text())
    events = Events(server)

    answer = restore(server, saved["id"], "in-place")
    assert answer["kernel_id"] == kernel_id
    assert answer["session"]["id"] == session["id"]
    assert answer["notebook"] == "a.ipynb"
    assert answer["running"] is None
    assert json.loads((home.runtime / f"kernel-{kernel_id}.json").read_text()) == connection
    assert channel.run("print(2)") == "2"  # the same websocket
    if saved["mode"] != "none":
        assert channel.run("print(x)") in ("5", "NameError: name 'x' is not defined")
    assert events.phases("restore", "succeeded")[0] == "started"
    wait_until(lambda: server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"] == "idle",
               20, "the server has heard that it is idle, too")


def test_restore_in_place_brings_values_back_and_restarts_still_work(
    real_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(real_home, start)
    channel.run("x = 5")
    saved = server.save(kernel_id)["result"]
    for _ in range(2):
        channel.run("x = 6")
        restore(server, saved["id"], "in-place")
        assert channel.run("print(x)") == "5"
    server.ok("POST", f"/api/kernels/{kernel_id}/restart")
    assert server.connect(kernel_id).run("print('x' in globals())") == "False"
    # A fresh kernel of the same notebook takes the old state over, too.
    restore(server, saved["id"], "in-place")
    assert server.connect(kernel_id).run("print(x)") == "5"


def test_restore_in_the_middle_of_a_cell_goes_on_with_it(
    real_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(real_home, start)
    cell = channel.send(COUNT.format(n=70), "cell-9")
    channel.wait_text(cell, "line 3")
    saved = server.save(kernel_id)["result"]
    assert saved["kernel"]["busy"] is True
    channel.result(cell)

    answer = restore(server, saved["id"], "in-place")
    running = answer["running"]
    assert (running["msg_id"], running["cell_id"]) == (cell, "cell-9")
    assert "line 3" in "".join(one["text"] for one in running["outputs"])
    again = server.connect(kernel_id)
    assert again.opened_after_s < 3
    printed = channel.result(cell)[0]
    assert "line 69" in printed
    assert "line 2\n" not in printed
    wait_until(lambda: server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"] == "idle")


def test_restore_of_another_kernels_checkpoint_takes_over_ports_and_key(
    real_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(real_home, start)
    channel.run("x = 5")
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204

    fresh = server.open_session("a.ipynb")["kernel"]["id"]
    channel = server.connect(fresh)
    channel.run("x = 'fresh'")
    answer = restore(server, saved["id"], "in-place")  # found by its notebook
    assert answer["kernel_id"] == fresh
    assert channel.run("print(x)") == "5"
    server.ok("POST", f"/api/kernels/{fresh}/interrupt")
    assert channel.run("print(x + 1)") == "6"


def test_cell_that_prints_while_the_key_changes_is_heard_to_its_end(
    real_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(real_home, start)
    cell = channel.send("import time\nfor i in range(6000):\n    print('line', i, flush=True)\n"
                        "    time.sleep(0.001)\nprint('the end')")
    channel.wait_text(cell, "line 20\n")
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204

    fresh = server.open_session("a.ipynb")["kernel"]["id"]
    channel = server.connect(fresh)
    channel.run("x = 'fresh'")
    restore(server, saved["id"], "in-place", kernel_id=fresh)
    # Whatever it says before it has the other key would be refused, and a websocket that
    # meets a bad signature hears nothing any more.
    channel.wait_text(cell, "the end")
    assert channel.run("print(i)") == "5999"


@pytest.mark.parametrize("named", [False, True])
def test_restore_in_place_without_kernel_opens_a_session_with_its_id(
    home: Home, start: StartServer, named: bool
) -> None:
    server, kernel_id, channel = started(home, start)
    channel.run("x = 5")
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204

    wanted = {"kernel_id": kernel_id} if named else {}
    answer = restore(server, saved["id"], "in-place", **wanted)
    assert answer["kernel_id"] == kernel_id
    assert answer["session"]["path"] == "a.ipynb"
    assert [one["id"] for one in server.ok("GET", "/api/kernels")] == [kernel_id]
    printed = server.connect(kernel_id).run("print(x)")
    assert printed in ("5", "NameError: name 'x' is not defined")
    assert (home.record(kernel_id) or {})["session"]["id"] == answer["session"]["id"]


def test_restore_without_kernel_brings_a_deleted_notebook_back(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204
    (fake_home.notebooks / "a.ipynb").unlink()
    answer = restore(server, saved["id"], "in-place")
    assert answer["notebook"] == "a.ipynb"
    assert "put back" in answer["warnings"][0]
    document = json.loads((fake_home.notebooks / "a.ipynb").read_text())
    assert "".join(document["cells"][0]["source"]) == "x = 1"


def test_restore_over_a_living_kernel_brings_its_deleted_notebook_back(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    (fake_home.notebooks / "a.ipynb").unlink()
    answer = restore(server, saved["id"], "in-place")
    assert (answer["kernel_id"], answer["notebook"]) == (kernel_id, "a.ipynb")
    assert "put back" in answer["warnings"][0]
    assert (fake_home.notebooks / "a.ipynb").exists()


def test_restore_that_fails_leaves_a_working_kernel_and_tells_why(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    events = Events(server)
    fake_home.fail_next(kernel_id, id="restore-failed", code=6, message="It did not work.",
                        hint="Look.")
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                            {"mode": "in-place"})
    assert (answer.status_code, answer.json()["error"]["id"]) == (500, "restore-failed")
    events.phases("restore", "failed")
    assert channel.run("print(2)") == "2"
    # It is watched again: a crash restarts it.
    pid = (fake_home.record(kernel_id) or {})["kernel"]["pid"]
    channel.send("import os; os.kill(os.getpid(), 9)")
    wait_until(lambda: (fake_home.record(kernel_id) or {"kernel": {"pid": pid}})
               ["kernel"]["pid"] != pid, 30, "restart after a crash")


def test_restore_that_had_to_move_to_other_ports_is_followed(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, channel = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    (fake_home.runtime / "ckpt" / kernel_id / "move").touch()
    restore(server, saved["id"], "in-place")
    # The page is told to reconnect, and then talks to the moved kernel.
    for message in channel.messages():
        if (message["msg_type"], message["content"].get("execution_state")) == (
                "status", "restarting"):
            break
    again = server.connect(kernel_id)
    assert again.run("print(3)") == "3"
    wait_until(lambda: server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"] == "idle")


def test_kernel_given_for_restore_must_run_here(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                            {"mode": "in-place", "kernel_id": "no-such-kernel"})
    assert (answer.status_code, answer.json()["error"]["id"]) == (404, "kernel-not-found")


def test_kernel_of_another_living_server_is_not_taken(fake_home: Home, start: StartServer) -> None:
    first, kernel_id, channel = started(fake_home, start)
    saved = first.save(kernel_id)["result"]
    second = start(fake_home)
    answer = second.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                            {"mode": "in-place"})
    assert (answer.status_code, answer.json()["error"]["id"]) == (409, "restore-refused")
    assert channel.run("print(2)") == "2"


WITHOUT_DOCUMENTS = server_fakes.CONFIGURATION + """
import jupyter_ckpt.store.transaction as transaction
transaction.Transaction.add_bytes = lambda self, name, data: None
"""
"""The stand-in, whose checkpoints hold no notebook document."""


@pytest.fixture
def renamed(fake_home: Home) -> Home:
    """A user who has another kernelspec, too."""
    spec = fake_home.folder / "data" / "kernels" / "other"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Other", "language": "python"}))
    return fake_home


def test_checkpoint_does_not_take_the_place_of_a_kernel_of_another_kernelspec(
    renamed: Home, start: StartServer
) -> None:
    server, kernel_id, _ = started(renamed, start)
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    switched = server.ok("PATCH", f"/api/sessions/{session['id']}", {"kernel": {"name": "other"}})
    other = switched["kernel"]["id"]
    channel = server.connect(other)
    channel.run("x = 'other'")
    for more in ({}, {"kernel_id": other}):
        answer = server.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                                {"mode": "in-place", **more})
        assert (answer.status_code, answer.json()["error"]["id"]) == (409, "restore-refused")
        assert "new notebook" in answer.json()["error"]["hint"]
    assert channel.run("print(x)") == "other"
    assert restore(server, saved["id"], "new")["notebook"] == "a-restored.ipynb"


# -- as a new notebook, forks ---------------------------------------------------------------
def test_restore_as_new_notebook_leaves_the_original_alone(home: Home, start: StartServer) -> None:
    server, kernel_id, channel = started(home, start)
    channel.run("x = 5")
    saved = server.save(kernel_id)["result"]
    channel.run("x = 6")
    answers = [restore(server, saved["id"], "new") for _ in range(2)]
    assert [one["notebook"] for one in answers] == ["a-restored.ipynb", "a-restored-1.ipynb"]
    assert len({kernel_id, *(one["kernel_id"] for one in answers)}) == 3
    for one in answers:
        assert one["session"]["kernel"]["id"] == one["kernel_id"]
        assert server.connect(one["kernel_id"]).run("print(2)") == "2"
    assert channel.run("print(x)") == "6"
    document = json.loads((home.notebooks / "a-restored.ipynb").read_text())
    assert "".join(document["cells"][0]["source"]) == "x = 1"


def test_restore_as_new_that_fails_leaves_no_document(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    fake_home.fail_next(None, id="restore-refused", code=6, message="No.")
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                            {"mode": "new"})
    assert answer.status_code == 409
    assert not (fake_home.notebooks / "a-restored.ipynb").exists()
    assert len(server.ok("GET", "/api/kernels")) == 1


def test_restore_as_new_copies_to_the_root_when_the_notebooks_folder_is_gone(
    fake_home: Home, start: StartServer
) -> None:
    (fake_home.notebooks / "sub").mkdir()
    server, kernel_id, _ = started(fake_home, start, "sub/a.ipynb")
    saved = server.save(kernel_id)["result"]
    shutil.rmtree(fake_home.notebooks / "sub")
    assert restore(server, saved["id"], "new")["notebook"] == "a-restored.ipynb"


def test_restore_as_new_to_a_path_makes_that_notebook_and_replaces_none(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    first = restore(server, saved["id"], "new", path="b.ipynb")
    assert first["session"]["path"] == first["notebook"] == "b.ipynb"
    assert restore(server, saved["id"], "new", path="b.ipynb")["notebook"] == "b-restored.ipynb"
    assert restore(server, saved["id"], "new", path="notes.txt")["notebook"] == (
        "notes-restored.ipynb"), "what is no notebook's name is the name of none"


def test_restore_in_place_at_a_path_replaces_the_kernel_of_that_notebook(
    fake_home: Home, start: StartServer
) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    fake_home.write_notebook("b.ipynb", "x = 2")
    other = server.open_session("b.ipynb")["kernel"]["id"]
    before = {one: (fake_home.record(one) or {})["kernel"]["pid"] for one in (kernel_id, other)}
    answer = restore(server, saved["id"], "in-place", path="b.ipynb", files=None)
    assert (answer["kernel_id"], answer["session"]["path"]) == (other, "b.ipynb")
    assert (fake_home.record(kernel_id) or {})["kernel"]["pid"] == before[kernel_id]
    assert (fake_home.record(other) or {})["kernel"]["pid"] != before[other]
    assert restore(server, saved["id"], "in-place", path="gone.ipynb")["kernel_id"] == kernel_id


@pytest.mark.parametrize("there", [True, False])
def test_restore_as_new_without_a_saved_document_makes_a_notebook_all_the_same(
    fake_home: Home, start: StartServer, there: bool
) -> None:
    fake_home.configure(WITHOUT_DOCUMENTS)
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    if not there:
        (fake_home.notebooks / "a.ipynb").unlink()
    answer = restore(server, saved["id"], "new", path="RTC:a.ipynb")
    assert answer["session"]["path"] == answer["notebook"] == "a-restored.ipynb"
    assert ("as it is now" if there else "empty") in answer["warnings"][0]
    document = json.loads((fake_home.notebooks / "a-restored.ipynb").read_text())
    assert len(document["cells"]) == there
    assert document["metadata"]["kernelspec"]["name"] == "python3"


def test_notebook_in_a_linked_folder_is_one_of_the_servers(
    fake_home: Home, start: StartServer
) -> None:
    elsewhere = fake_home.folder / "elsewhere"
    elsewhere.mkdir()
    (fake_home.notebooks / "link").symlink_to(elsewhere)
    server, kernel_id, _ = started(fake_home, start, "link/a.ipynb")
    saved = server.save(kernel_id)["result"]
    session = server.ok("GET", "/api/sessions")[0]
    assert server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204
    assert restore(server, saved["id"], "new")["notebook"] == "link/a-restored.ipynb"
    assert restore(server, saved["id"], "in-place")["notebook"] == "link/a.ipynb"


def test_session_whose_path_leads_out_of_the_root_names_no_file(
    fake_home: Home, start: StartServer
) -> None:
    server = start(fake_home)
    kernel_id = server.open_session("RTC:../a.ipynb")["kernel"]["id"]
    record = fake_home.record(kernel_id)
    assert record is not None
    assert record["notebook"] is None
    assert server.save(kernel_id)["state"] == "done"


@pytest.mark.parametrize("path", [
    "no/such/folder/b.ipynb", "../b.ipynb", "x/../../b.ipynb", "RTC:../b.ipynb", "a\0b.ipynb"])
def test_restore_to_a_senseless_path_is_refused(
    fake_home: Home, start: StartServer, path: str
) -> None:
    server, kernel_id, _ = started(fake_home, start)
    saved = server.save(kernel_id)["result"]
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved['id']}/restore",
                            {"mode": "new", "path": path})
    assert (answer.status_code, answer.json()["error"]["id"]) == (400, "usage")
    assert len(server.ok("GET", "/api/kernels")) == 1


def test_kernel_of_a_deleted_notebook_can_be_forked(fake_home: Home, start: StartServer) -> None:
    server, kernel_id, _ = started(fake_home, start)
    (fake_home.notebooks / "a.ipynb").unlink()
    (fork,) = server.ok("POST", f"/api/ckpt/kernels/{kernel_id}/fork", {})
    assert fork["notebook"] is None
    assert server.connect(fork["kernel_id"]).run("print(2)") == "2"


def test_forks_are_independent_sessions(home: Home, start: StartServer) -> None:
    server, kernel_id, channel = started(home, start)
    channel.run("x = 5")
    forks = server.ok("POST", f"/api/ckpt/kernels/{kernel_id}/fork", {"n": 2})
    assert [one["notebook"] for one in forks] == ["a-fork.ipynb", "a-fork-1.ipynb"]
    channel.run("x = 6")
    for number, fork in enumerate(forks):
        other = server.connect(fork["kernel_id"])
        other.run(f"x = {number}")
        assert other.run("print(x)") == str(number)
    assert channel.run("print(x)") == "6"
    assert len(server.ok("GET", "/api/sessions")) == 3


def living_kernels(home: Home) -> set[str]:
    return {record["kernel_id"] for record in home.records()
            if (identity := ProcessId.from_dict(record["kernel"])) and identity.is_alive()}


@pytest.mark.parametrize("broken", ["documents.Documents.write_copy", "fork_service.open_kernel"])
def test_fork_that_cannot_be_shown_leaves_no_kernel_and_no_copy(
    fake_home: Home, start: StartServer, broken: str
) -> None:
    """The second of three cannot be: for want of space, or for a reason nobody foresaw."""
    fake_home.configure(server_fakes.CONFIGURATION + f"""
import jupyter_ckpt.server.documents as documents
import jupyter_ckpt.server.fork_service as fork_service
calls, real = [], {broken}
async def failing(*args):
    calls.append(args)
    if len(calls) == 2:
        raise OSError("no space left")
    return await real(*args)
{broken} = failing
""")
    server, kernel_id, channel = started(fake_home, start)
    events = Events(server)
    answer = server.request("POST", f"/api/ckpt/kernels/{kernel_id}/fork", {"n": 3})
    assert (answer.status_code, answer.json()["error"]["id"]) == (500, "launch-failed")
    assert "no space left" in answer.json()["message"]
    assert "1 of 3" in answer.json()["error"]["hint"]
    assert "no space left" in events.last("fork", "failed")["error"]["message"]
    shown = {one["id"] for one in server.ok("GET", "/api/kernels")}
    assert len(shown) == 2
    assert living_kernels(fake_home) == shown
    assert sorted(path.name for path in fake_home.notebooks.glob("*.ipynb")) == [
        "a-fork.ipynb", "a.ipynb"]
    assert channel.run("print(2)") == "2"


def test_fork_whose_session_cannot_be_made_is_not_started_afresh(
    fake_home: Home, start: StartServer
) -> None:
    fake_home.configure(server_fakes.CONFIGURATION + """
from jupyter_server.services.sessions.sessionmanager import SessionManager
real = SessionManager.create_session
async def failing(self, path=None, **more):
    if "fork" in path:
        raise OSError("no session")
    return await real(self, path=path, **more)
SessionManager.create_session = failing
""")
    server, kernel_id, _ = started(fake_home, start)
    answer = server.request("POST", f"/api/ckpt/kernels/{kernel_id}/fork", {})
    assert answer.status_code == 500
    assert [one["id"] for one in server.ok("GET", "/api/kernels")] == [kernel_id]
    assert living_kernels(fake_home) == {kernel_id}
    assert not (fake_home.notebooks / "a-fork.ipynb").exists()
