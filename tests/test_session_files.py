"""What a real session's files and resources meet at a save and at a restore."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_plan import FaultPlan
from session_kit import Shell, Talker, shell_in

WRITER = """
import mmap, os, struct
log = os.open("log.bin", os.O_RDWR | os.O_CREAT)
with open("mapped.bin", "wb") as file: file.write(bytes(4096))
file = open("mapped.bin", "r+b"); mapped = mmap.mmap(file.fileno(), 4096)
count = 0
while True:
    found = os.fstat(log).st_size, struct.unpack_from("Q", mapped)[0]
    if found != (8 * count, count):
        open("torn", "a").write(f"memory {count}, files {found}\\n")
        break
    os.pwrite(log, struct.pack("Q", count), 8 * count)
    count += 1
    struct.pack_into("Q", mapped, 0, count)
"""

SETUP = f"""
import ctypes, os, sqlite3, subprocess, sys, time
hooks = []
get_ipython().checkpoint.on_checkpoint(lambda: hooks.append("asked"))
os.mkdir("files"); os.chdir("files")
writer = subprocess.Popen([sys.executable, "-c", {WRITER!r}])
db = sqlite3.connect("data.db", isolation_level=None)
db.execute("pragma journal_mode=wal"); db.execute("create table t(x)")
db.execute("insert into t values ('before')")
rows = lambda: [row[0] for row in db.execute("select x from t")]
os.mkfifo("pipe"); pipe = os.open("pipe", os.O_RDWR)
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
bare = os.open("bare.bin", os.O_RDWR | os.O_CREAT); os.ftruncate(bare, 4096)
address = libc.mmap(None, 4096, 3, 1, bare, 0); os.close(bare)
ctypes.memmove(address, b"mapped only", 11)
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname()); accepted, _ = server.accept()
while not os.path.exists("log.bin") or os.path.getsize("log.bin") < 8000: time.sleep(0.01)
print("ready")
"""


class Session:
    """One session that all tests of a mode share, and its checkpoint."""

    def __init__(self, shell: Shell) -> None:
        self.shell, self.files = shell, shell.home / "files"
        self.plan = FaultPlan(shell.home / "faults")
        self.plan.folder.chmod(0o777)
        shell.environment.update(self.plan.environment)
        started = shell.start()
        self.kernel_id, self.connection_file = started["kernel_id"], started["connection_file"]
        self.talker = Talker(self.connection_file)
        assert self.talker.run(SETUP) == "ready", "the session could not be set up"
        self.saved: dict[str, Any] = {}

    def restore(self, *options: str) -> dict[str, Any]:
        """Restore the checkpoint in place; return what ``restore --json`` prints."""
        found: dict[str, Any] = self.shell.ckpt("restore", self.saved["id"], "--in-place",
                                                *options)
        self.talker.close()
        self.talker = Talker(found["connection_file"])
        return found

    def refused(self, *options: str) -> dict[str, Any]:
        """Restore in place expecting a refusal that touches nothing; return the error."""
        self.talker.run("mark = object()")
        before, listing = self.talker.run("print(id(mark), os.getpid())"), self.listing()
        code, error = self.shell.refused("restore", self.saved["id"], "--in-place", *options)
        assert (code, error["id"]) == (6, "restore-refused")
        assert self.talker.run("print(id(mark), os.getpid())") == before
        assert self.listing() == listing
        return error

    def listing(self) -> list[str]:
        return sorted(path.name for path in self.files.iterdir())

    def rows(self) -> list[str]:
        """Return the database's rows as another program reads them."""
        db = sqlite3.connect(f"file:{self.files / 'data.db'}?mode=ro", uri=True)
        try:
            return [row[0] for row in db.execute("select x from t")]
        finally:
            db.close()


@pytest.fixture(scope="module", params=["root", "rootless"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with shell_in(request.param) as shell:
        found = Session(shell)
        yield found
        found.talker.close()


def test_what_cannot_be_saved_is_named_before_the_kernel_is_asked(session: Session) -> None:
    talker = session.talker
    talker.run("ring = ctypes.CDLL(None).syscall(323, 1)")
    if int(talker.run("print(ring)")) < 0:
        pytest.skip("no userfaultfd here")
    code, error = session.shell.refused("save", session.kernel_id)
    assert (code, error["id"]) == (5, "cannot-be-saved")
    descriptor = talker.run("print(ring)")
    assert f"the kernel itself uses userfaultfd (descriptor {descriptor})" in error["message"]
    assert talker.run("print(hooks)") == "[]"
    talker.run("os.close(ring)")


def test_save_takes_the_whole_database_and_all_open_files(session: Session) -> None:
    session.saved = session.shell.ckpt("save", session.kernel_id)
    saved = {Path(f["path"]).name: f for f in session.saved["files"] if f["saved"]}
    assert {"data.db", "data.db-wal", "data.db-shm", "log.bin", "mapped.bin",
            "bare.bin"} <= set(saved), "bare.bin is mapped and has no descriptor any more"
    assert session.talker.run("print(hooks)") == "['asked']"


def test_connections_that_will_be_lost_are_a_warning(session: Session) -> None:
    told = [text for text in session.saved["warnings"] if "network connection" in text]
    if session.shell.mode == "root":
        assert told == []
    else:
        assert told == ["1 network connection(s) between the session's own processes will come "
                        "back closed: rootless mode cannot bring them back."]


def test_memory_and_files_of_a_writer_at_full_speed_agree(session: Session) -> None:
    session.talker.run("db.execute(\"insert into t values ('after')\")")
    session.talker.run("ctypes.memmove(address, b'changed....', 11)")
    told = session.restore()
    assert session.talker.run("print(ctypes.string_at(address, 11))") == "b'mapped only'"
    assert session.talker.run("print(rows())") == "['before']"
    grown = "os.path.getsize('log.bin')"
    session.talker.run(f"size = {grown}\nwhile {grown} == size: time.sleep(0.01)")
    assert not (session.files / "torn").exists(), (session.files / "torn").read_text()
    assert session.talker.run("print(writer.poll())") == "None"
    for name in ("data.db-wal", "log.bin", "mapped.bin"):
        assert any(f"{session.files / name} was put back" in text for text in told["warnings"])


def test_abort_lists_every_differing_file_and_touches_nothing(session: Session) -> None:
    session.talker.run("db.execute(\"insert into t values ('later')\")")
    error = session.refused("--files", "abort")
    for name in ("data.db-wal", "log.bin", "mapped.bin"):
        assert str(session.files / name) in error["message"]
    assert session.rows() == ["before", "later"]


def test_all_reasons_are_told_at_once(session: Session) -> None:
    for name in ("pipe", "log.bin", "mapped.bin"):
        (session.files / name).rename(session.files / f"{name}.aside")
    (session.files / "log.bin").mkdir()
    os.mkfifo(session.files / "mapped.bin")
    error = session.refused()
    assert f"named pipe {session.files / 'pipe'}" in error["message"]
    assert f"{session.files / 'log.bin'} is a folder now" in error["message"]
    assert f"{session.files / 'mapped.bin'} is a named pipe now" in error["message"]
    (session.files / "log.bin").rmdir()
    (session.files / "mapped.bin").unlink()
    for name in ("pipe", "log.bin", "mapped.bin"):
        (session.files / f"{name}.aside").rename(session.files / name)


def test_file_that_may_not_be_put_back_is_named(session: Session) -> None:
    if session.shell.mode == "root":
        pytest.skip("root may write everywhere")
    session.files.chmod(0o500)
    try:
        error = session.refused()
    finally:
        session.files.chmod(0o755)
    assert f"{session.files / 'log.bin'} has changed and cannot be put back" in error["message"]


def test_failed_restore_brings_every_file_of_the_group_back(session: Session) -> None:
    session.plan.arm({"point": "restore.edited", "act": "eio", "program": "kernel_agent"})
    code, error = session.shell.refused("restore", session.saved["id"], "--in-place")
    assert (code, error["id"]) == (6, "restore-failed")
    assert "again as it was" in error["message"]
    session.talker.close()
    session.talker = Talker(session.connection_file)
    assert session.talker.run("print(rows())") == "['before', 'later']"
    assert session.rows() == ["before", "later"]
    assert not (session.files / "torn").exists()


def test_keep_goes_on_with_the_present_database(session: Session) -> None:
    session.talker.run("writer.kill(); writer.wait()")
    session.saved = session.shell.ckpt("save", session.kernel_id)
    session.talker.run("db.execute(\"insert into t values ('kept')\")")
    session.restore("--files", "keep")
    assert session.rows() == ["before", "later", "kept"]
