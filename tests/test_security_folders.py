"""Folders and sockets: one's own alone, or not used; links are not followed."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

import pytest
from ordinary_user import ordinary_user

from jupyter_ckpt.errors import RecordCorrupt, RuntimeUnusable, StoreUnusable
from jupyter_ckpt.inkernel.link import Link
from jupyter_ckpt.private import private_folder
from jupyter_ckpt.record import Record, read_record, write_record
from jupyter_ckpt.store import Store

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as another user")
OTHER = 12345


def test_runtime_folder_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private_folder(tmp_path / "runtime" / "ckpt")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "runtime" / "ckpt").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_own_runtime_folder_that_is_open_is_closed_with_a_word(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt").chmod(mode)
    private_folder(tmp_path / "ckpt")
    assert stat.S_IMODE((tmp_path / "ckpt").stat().st_mode) == 0o700
    assert "closed to them" in caplog.text


def test_link_or_file_in_the_place_of_the_runtime_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").touch()
    for name in ("link", "file", "file/below"):
        with pytest.raises(RuntimeUnusable):
            private_folder(tmp_path / name)
    assert os.listdir(tmp_path / "elsewhere") == []


@root_only
def test_runtime_folder_and_record_of_another_user_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    write_record(folder, Record("kernel-0001"))
    os.chown(folder, OTHER, OTHER)
    with pytest.raises(RuntimeUnusable, match="another user"):
        private_folder(folder)
    with pytest.raises(RecordCorrupt, match="another user"):
        read_record(folder)


def test_record_is_replaced_not_written_through_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    (tmp_path / "victim").write_text("precious")
    (folder / "record.json").symlink_to(tmp_path / "victim")
    write_record(folder, Record("kernel-0001"))
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (folder / "record.json").is_symlink()


@pytest.mark.parametrize("name", ["chunks", "manifests", "tmp", "work"])
@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_folder_of_the_store_that_is_open_is_refused(
    tmp_path: Path, name: str, mode: int
) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "store" / "work").mkdir(mode=0o700)
    (tmp_path / "store" / name).chmod(mode)
    with pytest.raises(StoreUnusable, match="Other users") as caught:
        Store.open(tmp_path / "store")
    assert "chmod 700" in caught.value.hint


def test_work_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "store")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "store" / "work").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnusable, match="folder of its own"):
        Store.open(tmp_path / "store")


@root_only
def test_kernel_socket_serves_its_owner_and_root_only(tmp_path: Path) -> None:
    """Even one who was handed a way to the socket: the peer's user id decides."""
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    link = Link(str(tmp_path), lambda op: {"ok": True}, lambda: None)
    link.start()
    sock = tmp_path / "kernel.sock"
    assert stat.S_IMODE(sock.stat().st_mode) == 0o600
    sock.chmod(0o666)
    assert _ask(sock) == b'{"ok": true}\n'
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.write(writer, b"answer: " + _ask(sock))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 200) == b"answer: "
    os.close(reader)
    os.close(writer)


def _ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(20)
        try:
            line.connect(str(path))
            line.sendall(b'{"op": "ping"}\n')
            return line.recv(200)
        except OSError:
            return b""


@root_only
def test_another_user_reaches_neither_store_nor_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an ordinary user can do to the files of somebody else's session: nothing."""
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    store = Store.open(tmp_path / "store")
    runtime = tmp_path / "runtime" / "ckpt" / "kernel-0001"
    private_folder(runtime.parent)
    private_folder(runtime)
    write_record(runtime, Record("kernel-0001"))
    monkeypatch.chdir(runtime)  # a socket's path is at most 107 bytes
    link = Link(".", lambda op: {"ok": True}, lambda: None)
    link.start()
    targets = [store.root, store.root / "key", store.root / "manifests", runtime,
               runtime / "record.json", runtime / "kernel.sock"]
    with ordinary_user() as user:
        found = user.python("""
import json, os, socket, sys
got = []
for path in sys.argv[1:]:
    try:
        os.listdir(path) if path.endswith(("store", "manifests", "kernel-0001")) else open(path)
        got.append(path)
    except OSError as error:
        pass
    try:
        line = socket.socket(socket.AF_UNIX); line.connect(path); got.append(path)
    except OSError:
        pass
    try:
        os.unlink(path); got.append(path)
    except OSError:
        pass
print(json.dumps(got))
""", *map(str, targets))
    assert found == [], json.dumps(found)
