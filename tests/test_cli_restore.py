"""``jupyter ckpt restore`` and ``stop``: with a Jupyter server, and without."""

from __future__ import annotations

import json
import os
import resource
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fake_kernels import KERNEL_ID, Shell, a_manifest, stored

from jupyter_ckpt.cli import servers
from jupyter_ckpt.errors import RestoreFailed
from jupyter_ckpt.procfs import ProcessId

TOKEN = "a-token"


class ServerStandIn:
    """A Jupyter server's HTTP side: scripted answers, remembered requests."""

    def __init__(self, root_dir: Path) -> None:
        self.root_dir = root_dir
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/lab/api"): (200, {"version": "2.17.0"}),
            ("GET", "/lab/api/ckpt/kernels"): (200, [])}
        self.requests: list[tuple[str, str, Any]] = []
        self.token = TOKEN
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                stand_in.requests.append((self.command, self.path, body))
                status, data = stand_in.answers.get((self.command, self.path), (404, None))
                if self.headers.get("Authorization") != f"token {TOKEN}":
                    status, data = 403, {"message": "Forbidden"}
                payload = b"<html>" if data is None else json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", "0" if status == 204 else str(len(payload)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(payload)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: the tests read standard error."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/lab/"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def speak_tls(self, folder: Path) -> None:
        """Answer over TLS from now on, with a certificate that nobody vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
        now = datetime.now(timezone.utc)
        certificate = x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now,
            now + timedelta(days=1)).sign(key, hashes.SHA256())
        file = folder / "server.pem"
        file.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        # The handshake belongs to a connection's thread, or one client could block all.
        self.http.socket = context.wrap_socket(
            self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = self.url.replace("http:", "https:")

    def call_itself(self, host: str) -> None:
        """Announce another host in the address than the one that is listened on."""
        self.url = self.url.replace("127.0.0.1", host)

    def announce(self, runtime_dir: Path, name: str = "1") -> None:
        """Write the file by which Jupyter's own commands find a server."""
        runtime_dir.mkdir(parents=True, exist_ok=True)
        (runtime_dir / f"jpserver-{name}.json").write_text(json.dumps({
            "url": self.url, "pid": os.getpid(), "token": self.token, "base_url": "/lab/",
            "root_dir": str(self.root_dir)}))

    def posted(self) -> list[tuple[str, Any]]:
        return [(path, body) for method, path, body in self.requests if method == "POST"]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    return Shell(capsys, tmp_path / "work")


@pytest.fixture
def server(shell: Shell) -> Iterator[ServerStandIn]:
    stand_in = ServerStandIn(shell.folder)
    stand_in.announce(shell.locations.connection_dir)
    yield stand_in
    stand_in.close()


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond a number of bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def saved(shell: Shell, document: bytes | None = None) -> Any:
    """Store a checkpoint of a notebook in the server's folder."""
    notebook = {"path": str(shell.folder / "job.ipynb"), "sha256": ""}
    return stored(shell.store, a_manifest(notebook=notebook, name="half-way"), document=document)


# -- without a server ----------------------------------------------------------------
def test_restore_brings_a_kernel_that_is_gone_back_under_its_id(shell: Shell) -> None:
    manifest = saved(shell)
    (shell.folder / "job.ipynb").touch()
    ran = shell.run("restore", "half-way", "--json")
    assert ran.document == {
        "kernel_id": KERNEL_ID, "connection_file": f"/run/kernel-{KERNEL_ID}.json",
        "server_url": None, "notebook": str(shell.folder / "job.ipynb"),
        "warnings": ["Ports were taken."]}
    ((_, arguments),) = shell.kernels.calls
    assert arguments == {"id": manifest.id, "kernel_id": KERNEL_ID, "in_place": False,
                         "files": "put-back", "notebook": str(shell.folder / "job.ipynb"),
                         "wait_s": None}


def test_restore_brings_a_deleted_notebook_back(shell: Shell) -> None:
    manifest = saved(shell, b"{}")
    ran = shell.run("restore", manifest.id, "--json")
    assert (shell.folder / "job.ipynb").read_bytes() == b"{}"
    assert "put back" in ran.document["warnings"][0]


def test_restore_leaves_the_present_notebook_alone(shell: Shell) -> None:
    manifest = saved(shell, b"{}")
    (shell.folder / "job.ipynb").write_bytes(b"newer")
    shell.run("restore", manifest.id)
    assert (shell.folder / "job.ipynb").read_bytes() == b"newer"


def test_restore_replaces_a_kernel_that_runs(shell: Shell) -> None:
    shell.kernels.add()
    manifest = saved(shell)
    ran = shell.run("restore", manifest.id, "--in-place", "--files", "keep", "--wait", "5")
    assert ran.code == 0
    ((_, arguments),) = shell.kernels.calls
    assert (arguments["kernel_id"], arguments["in_place"]) == (KERNEL_ID, True)
    assert (arguments["files"], arguments["wait_s"]) == ("keep", 5.0)


def test_restore_as_new_leaves_the_running_kernel_alone(shell: Shell) -> None:
    shell.kernels.add()
    manifest = saved(shell)
    document = shell.run("restore", manifest.id, "--new", "--json").document
    ((_, arguments),) = shell.kernels.calls
    assert document["kernel_id"] == arguments["kernel_id"] != KERNEL_ID
    assert (arguments["in_place"], arguments["notebook"]) == (False, None)


def test_restore_as_new_writes_a_copy_of_the_saved_notebook(shell: Shell) -> None:
    (shell.folder / "job-restored.ipynb").write_text("taken")
    manifest = saved(shell, b'{"cells": []}')
    copy = shell.folder / "job-restored-1.ipynb"
    assert shell.run("restore", manifest.id, "--new", "--json").document["notebook"] == str(copy)
    assert copy.read_text() == '{"cells": []}'
    assert (shell.folder / "job-restored.ipynb").read_text() == "taken"


def test_restore_as_new_that_fails_leaves_no_copy(shell: Shell) -> None:
    manifest = saved(shell, b'{"cells": []}')
    shell.kernels.failure = RestoreFailed("It did not work.")
    assert shell.run("restore", manifest.id, "--new").code == 6
    assert list(shell.folder.iterdir()) == []


def test_restore_as_new_where_the_notebooks_folder_is_gone_warns(shell: Shell) -> None:
    manifest = saved(shell, b'{"cells": []}')
    shell.folder.rmdir()
    document = shell.run("restore", manifest.id, "--new", "--json").document
    assert document["notebook"] is None
    assert "No copy of the notebook" in document["warnings"][0]


@pytest.mark.parametrize("option", [(), ("--new",)])
def test_notebook_that_cannot_be_written_whole_is_not_left_there_torn(
        shell: Shell, file_size_limit: Callable[[int], None], option: tuple[str, ...]) -> None:
    manifest = saved(shell, os.urandom(100_000))
    file_size_limit(64_000)
    document = shell.run("restore", manifest.id, *option, "--json").document
    assert "File too large" in document["warnings"][0]
    assert list(shell.folder.iterdir()) == []


def test_notebook_whose_saved_copy_is_damaged_is_not_left_there_empty(shell: Shell) -> None:
    manifest = saved(shell, os.urandom(100_000))
    chunks = (shell.locations.store_dir / "chunks").rglob("*")
    max(chunks, key=lambda path: path.is_file() and path.stat().st_size).write_bytes(b"damaged")
    document = shell.run("restore", manifest.id, "--json").document
    assert "was not put back" in document["warnings"][0]
    assert list(shell.folder.iterdir()) == []


def test_restore_for_people_prints_kernel_and_connection_file(shell: Shell) -> None:
    ran = shell.run("restore", saved(shell).id)
    assert ran.out == f"{KERNEL_ID}  /run/kernel-{KERNEL_ID}.json\n"
    assert "warning: Ports were taken." in ran.err
    assert "--existing" in ran.err


@pytest.mark.parametrize("wait", ["-1", "nan", "inf", "3601"])
def test_senseless_wait_is_refused_before_anything_is_touched(shell: Shell, wait: str) -> None:
    manifest = saved(shell)
    assert shell.run("restore", manifest.id, "--wait", wait).code == 2
    assert shell.kernels.calls == []


# -- through a server ------------------------------------------------------------------
def restores(server: ServerStandIn, checkpoint_id: str, status: int = 200,
             data: Any = None) -> None:
    """Let the stand-in answer the restore of one checkpoint."""
    server.answers[("POST", f"/lab/api/ckpt/checkpoints/{checkpoint_id}/restore")] = (
        status, data or {"kernel_id": "k", "connection_file": "/run/kernel-k.json",
                         "server_url": "ignored", "notebook": "job.ipynb", "session": None,
                         "warnings": [], "running": None})


@pytest.mark.parametrize(("option", "mode"), [
    ((), "in-place"), (("--in-place",), "in-place"), (("--new",), "new"),
])
def test_restore_goes_through_the_server_of_the_notebook(
        shell: Shell, server: ServerStandIn, option, mode) -> None:
    manifest = saved(shell)
    restores(server, manifest.id)
    document = shell.run("restore", manifest.id, *option, "--json").document
    assert document == {"kernel_id": "k", "connection_file": "/run/kernel-k.json",
                        "server_url": server.url, "notebook": "job.ipynb", "warnings": []}
    ((_, body),) = server.posted()
    assert body == {"mode": mode, "files": "put-back"}
    assert shell.kernels.calls == []


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_certificate_of_a_server_on_this_machine_needs_nobody_to_vouch_for_it(
        shell: Shell, server: ServerStandIn, tmp_path, host) -> None:
    server.speak_tls(tmp_path)
    server.call_itself(host)
    server.announce(shell.locations.connection_dir)
    manifest = saved(shell)
    restores(server, manifest.id)
    document = shell.run("restore", manifest.id, "--json").document
    assert document["server_url"] == server.url


@pytest.mark.parametrize(("host", "here"), [
    ("127.0.0.1", True), ("127.0.0.2", True), ("192.0.2.1", False),
    ("no-such-host.invalid", False)])
def test_only_addresses_of_this_machine_are_here(host: str, here: bool) -> None:
    assert servers._is_here(host) is here


def test_certificate_that_nobody_vouches_for_is_named(
        shell: Shell, server: ServerStandIn, tmp_path, monkeypatch) -> None:
    """The server is somewhere else, as far as anybody can tell."""
    monkeypatch.setattr(servers, "_LOOPBACK", ())
    monkeypatch.setattr(servers, "_is_here", lambda host: False)
    server.speak_tls(tmp_path)
    server.announce(shell.locations.connection_dir)
    ran = shell.run("restore", saved(shell).id, "--json")
    assert (ran.code, ran.error["id"]) == (4, "not-possible-here")
    assert "CERTIFICATE_VERIFY_FAILED" in ran.error["message"]
    assert "SSL_CERT_FILE" in ran.error["hint"]
    assert shell.kernels.calls == []


def test_restore_without_server_when_asked(shell: Shell, server: ServerStandIn) -> None:
    assert shell.run("restore", saved(shell).id, "--no-server", "--json").document[
        "server_url"] is None
    assert server.requests == []


def test_restore_ignores_a_server_elsewhere(shell: Shell, server: ServerStandIn, tmp_path) -> None:
    server.root_dir = tmp_path / "other"
    server.announce(shell.locations.connection_dir)
    assert shell.run("restore", saved(shell).id, "--json").document["server_url"] is None


def test_restore_ignores_a_killed_server_whose_pid_lives_again(
        shell: Shell, server: ServerStandIn) -> None:
    server.close()
    assert shell.run("restore", saved(shell).id, "--json").document["server_url"] is None


def test_restore_in_place_of_a_headless_kernel_stays_headless(
        shell: Shell, server: ServerStandIn) -> None:
    shell.kernels.add()
    assert shell.run("restore", saved(shell).id, "--json").document["server_url"] is None
    assert server.posted() == []


def test_restore_in_place_goes_to_the_server_that_shows_the_kernel(
        shell: Shell, server: ServerStandIn, tmp_path) -> None:
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    manifest = stored(shell.store, a_manifest())
    restores(server, manifest.id)
    assert shell.run("restore", manifest.id, "--json").document["server_url"] == server.url


def test_restore_of_a_kernel_whose_server_is_out_of_reach_is_refused(shell: Shell) -> None:
    owner = ProcessId.of(os.getppid())
    assert owner is not None
    shell.kernels.add(owner=owner.to_dict())
    ran = shell.run("restore", saved(shell).id, "--json")
    assert ran.error["code"] == 4
    assert "--no-server" in ran.error["hint"]
    assert shell.kernels.calls == []


def test_restore_through_a_server_without_the_extension_says_what_to_do(
        shell: Shell, server: ServerStandIn) -> None:
    del server.answers[("GET", "/lab/api/ckpt/kernels")]
    ran = shell.run("restore", saved(shell).id, "--json")
    assert (ran.code, ran.error["id"]) == (4, "not-possible-here")
    assert "jupyter server extension enable" in ran.error["hint"]
    assert server.posted() == []


@pytest.mark.parametrize("answers", [{}, {("GET", "/lab/api"): (200, ["something else"])}])
def test_whoever_listens_where_a_server_was_is_not_taken_for_it(
        shell: Shell, server: ServerStandIn, answers: dict[tuple[str, str], tuple[int, Any]]
) -> None:
    """The file of a killed server stays, and its port and pid may be others' by now."""
    server.answers = answers
    ran = shell.run("restore", saved(shell).id, "--json")
    assert (ran.code, ran.error["id"]) == (4, "not-possible-here")
    assert "is no Jupyter server" in ran.error["message"]
    [left] = shell.locations.connection_dir.glob("jpserver-*.json")
    assert str(left) in ran.error["hint"]
    assert server.posted() == []


def test_restore_through_a_server_without_a_token_says_what_to_do(
        shell: Shell, server: ServerStandIn) -> None:
    server.token = ""
    server.announce(shell.locations.connection_dir)
    ran = shell.run("restore", saved(shell).id, "--json")
    assert ran.code == 4
    assert "token" in ran.error["hint"]


def test_restore_prefers_the_deepest_server_that_answers(
        shell: Shell, server: ServerStandIn) -> None:
    above = ServerStandIn(shell.folder.parent)
    above.announce(shell.locations.connection_dir, "2")
    manifest = saved(shell)
    for each in (server, above):
        restores(each, manifest.id)
    try:
        assert shell.run("restore", manifest.id, "--json").document["server_url"] == server.url
        del server.answers[("GET", "/lab/api/ckpt/kernels")]
        assert shell.run("restore", manifest.id, "--json").document["server_url"] == above.url
    finally:
        above.close()


def test_restore_error_of_the_server_keeps_class_and_exit_code(
        shell: Shell, server: ServerStandIn) -> None:
    manifest = saved(shell)
    error = {"code": 6, "id": "restore-refused", "message": "libm.so changed.", "hint": "Wait."}
    restores(server, manifest.id, 409, {"message": "libm.so changed.", "error": error})
    ran = shell.run("restore", manifest.id, "--json")
    assert (ran.code, ran.error) == (6, error)


def test_restore_through_a_server_tells_where_the_notebook_is(
        shell: Shell, server: ServerStandIn) -> None:
    (shell.folder / "job.ipynb").write_text("{}")
    manifest = saved(shell)
    restores(server, manifest.id)
    document = shell.run("restore", manifest.id, "--json").document
    assert document["notebook"] == str(shell.folder / "job.ipynb")


def test_restore_through_a_server_with_another_store_says_so(
        shell: Shell, server: ServerStandIn) -> None:
    manifest = saved(shell)
    error = {"code": 3, "id": "checkpoint-not-found", "message": "There is none.", "hint": ""}
    restores(server, manifest.id, 404, {"message": "There is none.", "error": error})
    ran = shell.run("restore", manifest.id, "--json")
    assert (ran.code, "--no-server" in ran.error["hint"]) == (4, True)


def test_restore_that_crashes_in_the_server_exits_6(shell: Shell, server: ServerStandIn) -> None:
    manifest = saved(shell)
    restores(server, manifest.id, 500, {"message": "Internal Server Error", "reason": None})
    ran = shell.run("restore", manifest.id, "--json")
    assert (ran.code, ran.error["id"]) == (6, "restore-failed")


# -- fork ------------------------------------------------------------------------------
def test_fork_of_a_servers_session_goes_through_the_server(
        shell: Shell, server: ServerStandIn) -> None:
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    server.answers[("POST", f"/lab/api/ckpt/kernels/{KERNEL_ID}/fork")] = (200, [
        {"kernel_id": "k", "connection_file": "/run/kernel-k.json", "notebook": "job-fork.ipynb",
         "session": {"id": "s"}}])
    assert shell.run("fork", KERNEL_ID, "--json").document == [
        {"kernel_id": "k", "connection_file": "/run/kernel-k.json"}]
    assert server.posted()[0][1] == {"n": 1}
    assert "job-fork.ipynb" in shell.run("fork", KERNEL_ID).err
    assert shell.kernels.calls == []
    assert shell.run("fork", KERNEL_ID, "--no-server").code == 0
    assert [name for name, _ in shell.kernels.calls] == ["fork"]


def test_fork_of_a_session_whose_server_cannot_do_it_copies_the_kernel(
        shell: Shell, server: ServerStandIn) -> None:
    del server.answers[("GET", "/lab/api/ckpt/kernels")]
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    assert shell.run("fork", KERNEL_ID).code == 0
    assert [name for name, _ in shell.kernels.calls] == ["fork"]


# -- stop ------------------------------------------------------------------------------
def test_stop_of_a_servers_kernel_ends_its_session(shell: Shell, server: ServerStandIn) -> None:
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    sessions = [{"id": "s1", "kernel": {"id": KERNEL_ID}}]
    server.answers[("GET", "/lab/api/sessions")] = (200, sessions)
    server.answers[("DELETE", "/lab/api/sessions/s1")] = (204, None)
    assert shell.run("stop", KERNEL_ID).code == 0
    assert server.requests[-1][:2] == ("DELETE", "/lab/api/sessions/s1")
    assert shell.kernels.calls == []


def test_stop_of_a_servers_kernel_without_session_ends_the_kernel(
        shell: Shell, server: ServerStandIn) -> None:
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    server.answers[("GET", "/lab/api/sessions")] = (200, [])
    server.answers[("DELETE", f"/lab/api/kernels/{KERNEL_ID}")] = (204, None)
    assert shell.run("stop", KERNEL_ID).code == 0
    assert shell.kernels.calls == []


def test_stop_of_a_kernel_its_server_forgot_ends_it_directly(
        shell: Shell, server: ServerStandIn) -> None:
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    server.answers[("GET", "/lab/api/sessions")] = (200, [])
    assert shell.run("stop", KERNEL_ID).code == 0
    assert [name for name, _ in shell.kernels.calls] == ["stop"]


def test_stop_that_the_server_refuses_ends_nothing(shell: Shell, server: ServerStandIn) -> None:
    server.token = ""
    server.announce(shell.locations.connection_dir)
    shell.kernels.add(owner={"pid": os.getpid(), "start_time": 0})
    ran = shell.run("stop", KERNEL_ID, "--json")
    assert ran.error["code"] == 4
    assert shell.kernels.calls == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"url": "http://h/", "pid": 0}', b"\xff"])
def test_restore_ignores_a_broken_runtime_file_of_a_server(shell: Shell, content) -> None:
    folder = shell.locations.connection_dir
    folder.mkdir(parents=True)
    (folder / "jpserver-1.json").write_bytes(content)
    assert shell.run("restore", saved(shell).id, "--json").document["server_url"] is None
