"""Images, logs and edits: parsed from real dumps, refused when they are damaged."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_ckpt.box import ROOT_PID, NamespaceBox
from jupyter_ckpt.engine.criu import Criu
from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.engine.criulog import cause
from jupyter_ckpt.engine.edit import accept_present, move_folder
from jupyter_ckpt.engine.images import magic_of, read_image, write_image
from jupyter_ckpt.engine.layout import PAGE_BYTES, page_runs
from jupyter_ckpt.engine.openfiles import open_files, process_tree
from jupyter_ckpt.engine.sockets import close_outer_connections, inet_sockets, map_ports
from jupyter_ckpt.errors import CheckpointError, DumpFailed, IntegrityError
from jupyter_ckpt.native_build import native_path

PROGRAM = """
import os, socket, sys, time
folder = sys.argv[1]
os.chdir(folder)
written = open("written", "w+"); written.write("12345"); written.flush()
appended = open("appended", "a"); appended.write("log"); appended.flush()
reading = open("reading")
listener = socket.create_server(("127.0.0.1", 0))
inner = socket.create_connection(listener.getsockname()); accepted, _ = listener.accept()
outer = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
memory = bytearray(os.urandom(1 << 20))
open("ready", "w").close()
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def dump() -> Iterator[Path]:
    """A real dump; its folder has the program's files beside ``images``."""
    mode = "root" if os.geteuid() == 0 else "rootless"
    try:
        criu = find_criu().path
    except CheckpointError as error:
        pytest.skip(error.message)
    folder = Path(tempfile.mkdtemp(prefix="ckpt-", dir="/var/tmp"))
    (folder / "reading").write_text("read me")
    images, runtime = folder / "images", folder / "runtime"
    images.mkdir()
    runtime.mkdir()
    notifier = folder / "ckpt-notify"
    notifier.symlink_to(native_path("ckpt-box"))
    box = NamespaceBox.create(native_path("ckpt-box"), runtime, mode)
    try:
        with socket.create_server(("127.0.0.1", 0)) as outside:
            port = str(outside.getsockname()[1])
            box.start_root([sys.executable, "-c", PROGRAM, str(folder), port], os.environ, "/")
            while not (folder / "ready").exists():
                assert box.init.is_alive()
            pause = Criu(criu, mode, notifier).dump(ROOT_PID, images, box.command, lambda: None)
            assert pause > 0
        yield folder
    finally:
        box.stop()
        shutil.rmtree(folder)


@pytest.fixture
def images(dump: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dump / "images", tmp_path / "images"))


def test_open_files_have_their_roles(dump: Path) -> None:
    roles = {f.path: f.role for f in open_files(dump / "images")}
    assert roles[str(dump / "written")] == "write"
    assert roles[str(dump / "appended")] == "append"
    assert roles[str(dump / "reading")] == "read"
    assert any(role == "mapped" and "python" in path for path, role in roles.items())


def test_tree_starts_at_its_root(dump: Path) -> None:
    tree = process_tree(dump / "images")
    assert tree.pids[0] == ROOT_PID
    assert len(tree.pids) == 2
    assert tree.highest_pid == max(tree.all_ids)


def test_thread_id_of_a_zombie_is_not_believed(images: Path) -> None:
    path = images / "pstree.img"
    entries = read_image(path, "pstree_entry")
    entries[-1].threads[:] = [3_581_583_632]
    write_image(path, magic_of(path), entries)
    assert process_tree(images).highest_pid == max(e.pid for e in entries)


def test_runs_cover_each_pages_file_exactly(dump: Path) -> None:
    for name, runs in page_runs(dump / "images").items():
        position = 0
        for run in runs:
            assert run.offset == position
            assert run.length % PAGE_BYTES == run.address % PAGE_BYTES == 0
            position += run.length
        assert position == (dump / "images" / name).stat().st_size


def test_connections_are_told_apart_by_where_their_other_end_is(dump: Path) -> None:
    sockets = inet_sockets(dump / "images")
    assert len(sockets.listeners) == 1
    assert len(sockets.inner) == 2
    assert len(sockets.outer) == 1


def test_outer_connections_close_and_inner_ones_stay(images: Path) -> None:
    assert close_outer_connections(images, keep_inner=True) == 1
    sockets = inet_sockets(images)
    assert (len(sockets.listeners), len(sockets.inner), len(sockets.outer)) == (1, 2, 0)
    assert close_outer_connections(images, keep_inner=False) == 2


def test_ports_move_at_listener_and_both_ends(images: Path) -> None:
    old = inet_sockets(images).listeners[0].port
    map_ports(images, {old: 4711})
    sockets = inet_sockets(images)
    assert sockets.listeners[0].port == 4711
    assert len(sockets.inner) == 2
    assert {4711} <= {end[1] for c in sockets.inner for end in (c.source, c.target)}


def test_sizes_and_folders_can_be_changed(images: Path, dump: Path) -> None:
    accept_present(images, {str(dump / "written"): (99, 0o100600)})
    move_folder(images, str(dump), "/elsewhere")
    found = {f.path: f for f in open_files(images)}
    assert found["/elsewhere/written"].size_bytes == 99


def test_image_written_again_is_the_same_to_criu(images: Path) -> None:
    """Fields we do not declare survive: the messages parse to equal ones."""
    path = images / "files.img"
    before, magic = read_image(path, "file_entry"), magic_of(path)
    write_image(path, magic, before)
    assert magic_of(path) == magic
    assert read_image(path, "file_entry") == before


def test_editing_never_writes_through_a_hard_link(images: Path) -> None:
    original = (images / "files.img").read_bytes()
    os.link(images / "files.img", images / "kept")
    map_ports(images, {inet_sockets(images).listeners[0].port: 4711})
    assert (images / "kept").read_bytes() == original


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_images_give_a_named_error_or_parse(dump: Path, data: st.DataObject) -> None:
    original = (dump / "images" / "files.img").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(8, len(damaged))):]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "files.img")
        path.write_bytes(bytes(damaged))
        with suppress(IntegrityError):
            read_image(path, "file_entry")


def test_pages_that_do_not_fit_their_map_are_refused(images: Path) -> None:
    pages = max(images.glob("pages-*.img"), key=lambda p: p.stat().st_size)
    with pages.open("ab") as file:
        file.write(bytes(PAGE_BYTES))
    with pytest.raises(IntegrityError, match="do not fit"):
        page_runs(images)


HARMLESS = """\
Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
Error (criu/net.c:1253): net: Unexpected error: -1(Operation not permitted)
"""


@pytest.mark.parametrize(("line", "expected"), [
    ("Error (criu/files-reg.c:1): File home/u/data.csv has bad size 5 (expect 3)",
     "The file home/u/data.csv changed its size since the checkpoint."),
    ("   102: Error (criu/files-reg.c:2): Can't open file tmp/x on restore: No such file",
     "The file tmp/x is missing or may not be opened."),
    ("Error (criu/cr-restore.c:3): Can't fork for 102: File exists",
     "Process id 102 of the session is taken by another process."),
    ("Error (criu/sk-inet.c:4): Can't bind inet socket back: Address already in use",
     "A network port of the session is in use."),
    ("Error (criu/files-ext.c:5): Can't dump file 7 of that type [20666] /dev/nvidia0",
     "A process of the session has the device /dev/nvidia0 open, which cannot be saved."),
    ("Error (criu/pie/parasite.c:588): send_fds failed (-22)",
     "A process of the session uses io_uring, which cannot be saved."),
    ("Error (criu/namespaces.c:460): Can't dump nested user namespace for 103",
     "A process of the session is in a user namespace of its own, which cannot be saved."),
    ("Error (criu/cr-dump.c:669): Can't make VM id for 103",
     "Process 103 of the session is just being started and shares its parent's memory."),
    ("Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] "
     "(anon anon_inode:[perf_event])",
     "A process of the session has a descriptor open (anon_inode:[perf_event]) "
     "that cannot be saved."),
    ("Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 34fd29",
     "A process of the session has a socket of a kind (262) that cannot be saved."),
    ("Error (criu/proc_parse.c:376): Can't open mapped [/x/libold.so (deleted)]: No such file",
     "A process of the session maps /x/libold.so, which was deleted or replaced since and "
     "cannot be saved in this mode."),
    ("Error (criu/sk-unix.c:506): unix: Non-empty write queue on an in-flight socket 0x1e6cca5",
     "A connection to a unix socket of the session waits to be accepted and cannot be saved."),
    ("Error (criu/sk-unix.c:525): unix: Found a closed in-flight socket to 0x1e6ca52",
     "A connection to a unix socket of the session waits to be accepted and cannot be saved."),
    ("   100: Error (criu/sk-unix.c:2285): unix: FATAL: Peer 31899787 unresolved for 31899812",
     "The checkpoint was made while a connection to a program outside of the session had not "
     "been accepted: it cannot be restored."),
    ("Error (criu/sk-inet.c:185): inet: In-flight connection (l) for 1e6cfef",
     "A connection to a port of the session waits to be accepted and cannot be saved."),
    ("Error (criu/sk-inet.c:9): inet: an error of sockets\n"
     "Error (criu/cr-dump.c:1545): Dump files (pid: 102) failed with -1",
     "CRIU failed: inet: an error of sockets."),
    ("Error (criu/cr-dump.c:1545): Dump files (pid: 102) failed with -1",
     "CRIU failed without naming a cause."),
    ("Error (criu/files-reg.c:1122): Can't create link remap for /u/v.1/lib x.so. "
     "Use link-remap option.",
     "A process of the session uses /u/v.1/lib x.so, which lost that name and has another one "
     "(a hard link): it cannot be saved."),
    ("Error (criu/something.c:6): an error nobody has seen yet",
     "CRIU failed: an error nobody has seen yet."),
])
def test_cause_is_one_sentence_and_never_the_harmless_line(
    tmp_path: Path, line: str, expected: str
) -> None:
    log = tmp_path / "dump.log"
    log.write_text(HARMLESS + line + "\nError (criu/cr-dump.c:9): Dumping FAILED.\n")
    assert cause(log)[0] == expected


def test_cause_of_an_empty_log_points_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "dump.log"
    log.write_text(HARMLESS)
    sentence, hint = cause(log)
    assert sentence == "CRIU failed without naming a cause."
    assert str(log) in hint


def test_dump_given_up_while_frozen_lets_the_tree_run(tmp_path: Path) -> None:
    mode = "root" if os.geteuid() == 0 else "rootless"
    binary = native_path("ckpt-box")
    (tmp_path / "ckpt-notify").symlink_to(binary)
    (tmp_path / "images").mkdir()
    box = NamespaceBox.create(binary, tmp_path, mode)
    try:
        root = box.start_root(["sh", "-c", "while :; do sleep 0.01; done"], os.environ, "/")

        def refuse() -> None:
            raise DumpFailed("given up")

        criu = Criu(find_criu().path, mode, tmp_path / "ckpt-notify")
        with pytest.raises(DumpFailed, match="given up"):
            criu.dump(root, tmp_path / "images", box.command, refuse)
        pid = box.host_pid(root)
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True,
                               text=True, check=True).stdout
        assert state[0] in "SR"
    finally:
        box.stop()
