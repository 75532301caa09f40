"""REST routes: who may call them, what they answer, how they refuse."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import server_fakes
from fake_kernels import a_manifest, stored
from jupyter_harness import Home, Server

from jupyter_ckpt import offers
from jupyter_ckpt.handlers import ROUTES, CheckpointsHandler, OffersHandler
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest, new_id, utc_now
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.documents import Documents
from jupyter_ckpt.store import Store

VERBS = [("GET", "doctor"), ("GET", "kernels"), ("POST", "kernels/some-kernel/checkpoints"),
         ("GET", "kernels/some-kernel/running"), ("GET", "kernels/some-kernel/schedule"),
         ("PUT", "kernels/some-kernel/schedule"), ("POST", "kernels/some-kernel/fork"),
         ("GET", "jobs/some-job-id"), ("GET", "checkpoints"), ("GET", "checkpoints/abcdef"),
         ("PATCH", "checkpoints/abcdef"), ("DELETE", "checkpoints/abcdef"),
         ("GET", "offers"), ("DELETE", "offers/some-kernel"),
         ("GET", "checkpoints/abcdef/notebook"), ("POST", "checkpoints/abcdef/restore")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = Home(tmp_path_factory.mktemp("routes"))
    home.configure(server_fakes.CONFIGURATION)
    server = Server(home)
    yield server
    server.stop()


@pytest.fixture
def checkpoint(server: Server) -> Iterator[Manifest]:
    """A checkpoint of a notebook that this server serves."""
    store = Store.open(server.home.folder / "data" / "ckpt")
    manifest = Manifest(
        new_id(), utc_now(), {"id": "an-old-kernel", "name": "python3"}, "0" * 64,
        notebook={"path": str(server.home.notebooks / "old.ipynb"), "sha256": ""})
    with store.transaction(new_id()) as tx:
        tx.add_bytes("notebook.ipynb", b'{"cells": [], "metadata": {}, "nbformat": 4}')
        manifest = tx.commit(manifest)
    yield manifest
    if manifest.id in {one.id for one in store.manifests()}:
        store.remove(manifest.id)


@pytest.mark.parametrize(("verb", "path"), VERBS)
def test_route_without_token_is_forbidden(server: Server, verb: str, path: str) -> None:
    answer = server.request(verb, f"/api/ckpt/{path}", {} if verb != "GET" else None, token=None)
    assert answer.status_code == 403


@pytest.mark.parametrize(("verb", "path"), VERBS)
def test_route_with_wrong_token_is_forbidden(server: Server, verb: str, path: str) -> None:
    answer = server.request(verb, f"/api/ckpt/{path}", {} if verb != "GET" else None, token="no")
    assert answer.status_code == 403


def test_every_route_and_verb_is_in_the_table_of_this_test() -> None:
    tested = {(verb, len(path.split("/"))) for verb, path in VERBS}
    for pattern, handler in ROUTES:
        depth = len(pattern.removeprefix("api/ckpt/").split("/")) - pattern.count("[^/]")
        for verb in ("get", "post", "patch", "put", "delete"):
            if verb in handler.__dict__:
                assert (verb.upper(), depth) in tested, (pattern, verb)
                assert hasattr(getattr(handler, verb), "__wrapped__"), (pattern, verb)


def test_authorizer_that_says_no_is_obeyed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.configure(server_fakes.CONFIGURATION + """
from jupyter_server.auth import Authorizer
class NoCheckpoints(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "checkpoints"
c.ServerApp.authorizer_class = NoCheckpoints
""")
    server = Server(home)
    try:
        assert server.request("GET", "/api/kernels").status_code == 200
        for verb, path in VERBS:
            answer = server.request(verb, f"/api/ckpt/{path}", {} if verb != "GET" else None)
            assert answer.status_code == 403, path
    finally:
        server.stop()


@pytest.mark.parametrize(("verb", "path", "body", "status", "error_id"), [
    ("GET", "checkpoints/abcdef", None, 404, "checkpoint-not-found"),
    ("DELETE", "checkpoints/abcdef", None, 404, "checkpoint-not-found"),
    ("PATCH", "checkpoints/abcdef", {"pinned": True}, 404, "checkpoint-not-found"),
    ("GET", "checkpoints/abcdef/notebook", None, 404, "checkpoint-not-found"),
    ("POST", "checkpoints/abcdef/restore", {"mode": "new"}, 404, "checkpoint-not-found"),
    ("POST", "checkpoints/abcdef/restore", {"mode": "sideways"}, 400, "usage"),
    ("POST", "checkpoints/abcdef/restore", {}, 400, "usage"),
    ("POST", "checkpoints/abcdef/restore", {"mode": "new", "files": "burn"}, 400, "usage"),
    ("POST", "checkpoints/abcdef/restore", {"mode": 1}, 400, "usage"),
    ("POST", "checkpoints/abcdef/restore", {"mode": "new", "x": 1}, 400, "usage"),
    ("PATCH", "checkpoints/abcdef", {"note": "n" * 10_001}, 400, "usage"),
    ("POST", "kernels/no-such-kernel/checkpoints", {"note": "n" * 10_001}, 400, "usage"),
    ("GET", "checkpoints/%2e%2e%2fkey", None, 400, "malformed-id"),
    ("GET", "checkpoints/a%00b", None, 400, "malformed-id"),
    ("POST", "kernels/no-such-kernel/checkpoints", {}, 404, "kernel-not-found"),
    ("POST", "kernels/..%2f..%2fx/checkpoints", {}, 400, "protocol"),
    ("POST", "kernels/no-such-kernel/checkpoints", {"pin": 1}, 400, "usage"),
    ("POST", "kernels/no-such-kernel/checkpoints", {"request_id": "/"}, 400, "protocol"),
    ("POST", "kernels/no-such-kernel/fork", {"n": 0}, 400, "usage"),
    ("POST", "kernels/no-such-kernel/fork", {"n": True}, 400, "usage"),
    ("POST", "kernels/no-such-kernel/fork", {"n": 1}, 404, "kernel-not-found"),
    ("GET", "kernels/no-such-kernel/running", None, 404, "kernel-not-found"),
    ("GET", "kernels/no-such-kernel/schedule", None, 404, "kernel-not-found"),
    ("GET", "kernels/..%2f..%2fx/schedule", None, 400, "protocol"),
    ("PUT", "kernels/no-such-kernel/schedule", {"every": "10m"}, 404, "kernel-not-found"),
    ("PUT", "kernels/no-such-kernel/schedule", {"every": "soon"}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"every_s": 4.9}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"every_s": True}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"every": "10m", "every_s": 600}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"cells": 0}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"cells": 1.5}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"keep": 0}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"off": True, "cells": 1}, 400, "usage"),
    ("PUT", "kernels/no-such-kernel/schedule", {"hourly": 1}, 400, "usage"),
    ("DELETE", "offers/no-such-kernel", None, 404, "not-found"),
    ("DELETE", "offers/..%2f..%2fx", None, 400, "protocol"),
    ("GET", "jobs/unknown-job", None, 404, "job-not-found"),
    ("GET", "jobs/x", None, 400, "protocol"),
])
def test_bad_request_is_refused_with_one_sentence(
    server: Server, verb: str, path: str, body: object, status: int, error_id: str
) -> None:
    answer = server.request(verb, f"/api/ckpt/{path}", body)
    found = answer.json()
    assert (answer.status_code, found["error"]["id"]) == (status, error_id), found
    assert found["message"] == found["error"]["message"]
    assert set(found["error"]) >= {"code", "id", "message", "hint"}


@pytest.mark.parametrize("body", ["{", "[]", '"text"', "\x00"])
def test_body_that_is_no_object_is_refused(server: Server, body: str) -> None:
    answer = server.request("POST", "/api/ckpt/checkpoints/abcdef/restore", data=body)
    assert (answer.status_code, answer.json()["error"]["id"]) == (400, "usage")


@pytest.mark.parametrize("wait_s", ["-1", "-1e-9", "3600.1", "1e999", "NaN", "Infinity",
                                    "1" + "0" * 400, "true", '"5"'])
def test_senseless_wait_is_refused(server: Server, checkpoint: Manifest, wait_s: str) -> None:
    answer = server.request("POST", f"/api/ckpt/checkpoints/{checkpoint.id}/restore",
                            data=f'{{"mode": "new", "wait_s": {wait_s}}}')
    assert (answer.status_code, answer.json()["error"]["id"]) == (400, "usage")
    assert server.ok("GET", "/api/kernels") == []


def test_checkpoint_is_read_changed_and_removed(server: Server, checkpoint: Manifest) -> None:
    path = f"/api/ckpt/checkpoints/{checkpoint.id}"
    assert server.ok("GET", path)["id"] == checkpoint.id
    assert server.ok("GET", f"/api/ckpt/checkpoints/{checkpoint.id[:8]}")["id"] == checkpoint.id
    assert server.ok("GET", path + "/notebook")["nbformat"] == 4

    changed = server.ok("PATCH", path, {"name": "before the fall", "note": "n", "pinned": True})
    assert (changed["name"], changed["note"], changed["pinned"]) == ("before the fall", "n", True)
    by_name = "/api/ckpt/checkpoints/before%20the%20fall"
    assert server.ok("GET", by_name)["pinned"] is True
    assert server.ok("PATCH", by_name, {"name": None})["name"] is None

    assert server.request("DELETE", path).status_code == 204
    assert server.request("GET", path).status_code == 404


def test_name_that_exists_is_refused(server: Server, checkpoint: Manifest) -> None:
    server.ok("PATCH", f"/api/ckpt/checkpoints/{checkpoint.id}", {"name": "taken name"})
    store = Store.open(server.home.folder / "data" / "ckpt")
    with store.transaction(new_id()) as tx:
        other = tx.commit(Manifest(new_id(), utc_now(), {"id": "k"}, "0" * 64))
    answer = server.request("PATCH", f"/api/ckpt/checkpoints/{other.id}", {"name": "taken name"})
    assert (answer.status_code, answer.json()["error"]["id"]) == (409, "name-taken")
    store.remove(other.id)


def test_list_is_filtered_by_notebook_and_kernel(server: Server, checkpoint: Manifest) -> None:
    def ids(query: str) -> list[str]:
        return [one["id"] for one in server.ok("GET", f"/api/ckpt/checkpoints{query}")]

    assert checkpoint.id in ids("")
    assert ids("?notebook=old.ipynb") == [checkpoint.id]
    assert ids(f"?notebook={server.home.notebooks / 'old.ipynb'}") == [checkpoint.id]
    assert ids("?notebook=other.ipynb") == []
    assert ids("?kernel_id=an-old-kernel") == [checkpoint.id]
    assert ids("?kernel_id=another") == []
    for blank in ("?kernel_id=", "?notebook=", "?kernel_id=%20&notebook=%20"):
        assert ids(blank) == [checkpoint.id], "a blank filter is none"


def test_edited_manifest_is_named_and_can_be_removed(server: Server, checkpoint: Manifest) -> None:
    file = next((server.home.folder / "data" / "ckpt" / "manifests").glob(f"{checkpoint.id}*"))
    data = json.loads(file.read_bytes())
    data["manifest"]["note"] = "forged"
    file.write_text(json.dumps(data))
    answer = server.request("GET", f"/api/ckpt/checkpoints/{checkpoint.id}")
    assert (answer.status_code, answer.json()["error"]["id"]) == (422, "signature-invalid")
    restore = server.request("POST", f"/api/ckpt/checkpoints/{checkpoint.id}/restore",
                             {"mode": "new"})
    assert restore.status_code == 422
    assert server.request("DELETE", f"/api/ckpt/checkpoints/{checkpoint.id}").status_code == 204


def test_store_with_open_permissions_is_refused(server: Server, checkpoint: Manifest) -> None:
    folder = server.home.folder / "data" / "ckpt"
    folder.chmod(0o755)
    try:
        answer = server.request("GET", "/api/ckpt/checkpoints")
        assert (answer.status_code, answer.json()["error"]["id"]) == (503, "store-unusable")
    finally:
        folder.chmod(0o700)


def test_kernel_without_agent_is_named(server: Server) -> None:
    """A kernelspec may choose the ordinary provisioner."""
    spec = server.home.folder / "data" / "kernels" / "plain"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Plain", "language": "python",
        "metadata": {"jupyter_ckpt": {"enabled": False}}}))
    kernel = server.ok("POST", "/api/kernels", {"name": "plain"})["id"]
    answer = server.request("POST", f"/api/ckpt/kernels/{kernel}/checkpoints", {})
    assert (answer.status_code, answer.json()["error"]["id"]) == (409, "not-our-kernel")
    assert server.home.record(kernel) is None
    assert server.request("DELETE", f"/api/kernels/{kernel}").status_code == 204


def test_schedule_is_set_shown_and_switched_off(server: Server) -> None:
    kernel = server.ok("POST", "/api/kernels", {})["id"]
    path = f"/api/ckpt/kernels/{kernel}/schedule"
    nothing = {"kernel_id": kernel, "every_s": None, "cells": None, "keep": None,
               "keep_hourly": None, "keep_daily": None, "next_due_s": None, "last_automatic": None}
    assert server.ok("GET", path) == nothing
    assert server.ok("PUT", path, {"every": "10m", "keep": 3})["every_s"] == 600
    found = server.ok("PUT", path, {"cells": 4, "keep_daily": 7})
    assert (found["every_s"], found["cells"], found["keep"]) == (600, 4, 3)
    assert (found["keep_hourly"], found["keep_daily"]) == (0, 7)
    assert server.home.record(kernel)["schedule"] == {
        "every_s": 600, "cells": 4, "keep": 3, "keep_hourly": None, "keep_daily": 7}
    assert server.ok("GET", path)["cells"] == 4
    assert server.ok("PUT", path, {"off": True}) == nothing
    assert server.request("DELETE", f"/api/kernels/{kernel}").status_code == 204


def test_doctor_says_what_works(server: Server) -> None:
    found = server.ok("GET", "/api/ckpt/doctor")
    assert set(found) >= {"process", "mode", "criu", "problems"}


@pytest.mark.parametrize("handler", [CheckpointsHandler, OffersHandler])
def test_file_system_that_is_gone_does_not_hang_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handler: Any
) -> None:
    backend = Backend(Locations(tmp_path / "ckpt", tmp_path, tmp_path / "store"))
    for name in ("a.ipynb", "b.ipynb"):
        manifest = stored(Store.open(backend.locations.store_dir), a_manifest(
            f"kernel-of-{name[0]}", notebook={"path": str(tmp_path / name), "sha256": ""}))
        offers.offer_again(backend.locations.runtime_dir, manifest, "it ended")
    looked: list[threading.Thread] = []
    real_path = os.path.realpath

    def realpath(*args: Any, **kwargs: Any) -> Any:
        looked.append(threading.current_thread())
        return real_path(*args, **kwargs)

    monkeypatch.setattr(os.path, "realpath", realpath)
    answers: list[Any] = []
    documents = Documents(SimpleNamespace(root_dir=str(tmp_path)))
    asked = SimpleNamespace(
        services=SimpleNamespace(backend=backend, documents=documents), answer=answers.append,
        get_query_argument=lambda name, default: "a.ipynb" if name == "notebook" else default)
    asyncio.run(inspect.unwrap(handler.get)(asked))
    [[found]] = answers
    assert "kernel-of-a" in json.dumps(found)
    assert looked and threading.current_thread() not in looked
