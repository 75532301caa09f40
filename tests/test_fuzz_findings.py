"""What the fuzzer has found once: each of these was a crash, a hang or a novel."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from jupyter_ckpt.agent.frozen import refill_shared_memory
from jupyter_ckpt.agent.saved import FILES, SHARED_MEMORY, checked, parsed
from jupyter_ckpt.agent.savedfiles import plan_files
from jupyter_ckpt.engine.criulog import cause
from jupyter_ckpt.engine.edit import move_folder
from jupyter_ckpt.engine.layout import page_runs
from jupyter_ckpt.engine.openfiles import open_files, process_tree
from jupyter_ckpt.engine.schema import MESSAGES
from jupyter_ckpt.errors import (
    ChunkCorrupt,
    IntegrityError,
    MalformedId,
    ManifestCorrupt,
    ProtocolError,
    RestoreRefused,
    SignatureInvalid,
    UsageError,
    from_dict,
)
from jupyter_ckpt.inkernel.link import Link
from jupyter_ckpt.manifest import Manifest, checked_reference, new_id, utc_now
from jupyter_ckpt.plan import Schedule
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.store import Store, signing, tree

KEY = b"k" * 32


def image(path: Path, *messages: Any) -> None:
    parts = [b"\0" * 8]
    for message in messages:
        raw = message.SerializeToString()
        parts += [struct.pack("<I", len(raw)), raw]
    path.write_bytes(b"".join(parts))


def fields(**changes: Any) -> dict[str, Any]:
    return Manifest(new_id(), utc_now(), {"id": "k"}, "0" * 64).to_dict() | changes


def test_file_name_that_is_no_text_is_saved_and_moved(tmp_path: Path) -> None:
    """A session may have any file open: the images held its name as bytes we did not expect."""
    for name in ("files.img", "reg-files.img"):
        (tmp_path / name).unlink(missing_ok=True)
    image(tmp_path / "files.img", MESSAGES["file_entry"](type=1, id=1, reg=MESSAGES[
        "reg_file_entry"](id=1, flags=2, name=b"/old/caf\xe9.csv", size=3, mode=0o100600)))
    image(tmp_path / "fdinfo-2.img", MESSAGES["fdinfo_entry"](id=1, fd=3))
    (found,) = open_files(tmp_path)
    assert os.fsencode(found.path) == b"/old/caf\xe9.csv"
    move_folder(tmp_path, "/old", "/new")
    assert os.fsencode(open_files(tmp_path)[0].path) == b"/new/caf\xe9.csv"


def test_empty_images_are_named(tmp_path: Path) -> None:
    image(tmp_path / "pstree.img")
    with pytest.raises(IntegrityError, match="pstree"):
        process_tree(tmp_path)
    image(tmp_path / "pagemap-1.img")
    with pytest.raises(IntegrityError, match="pagemap-1"):
        page_runs(tmp_path)


def test_pagemap_without_its_pages_is_named(tmp_path: Path) -> None:
    image(tmp_path / "pagemap-1.img", MESSAGES["pagemap_head"](pages_id=77))
    with pytest.raises(IntegrityError, match="pages-77"):
        page_runs(tmp_path)


def test_log_of_one_endless_line_becomes_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Error (x.c:1): File " + "a" * 9000 + " has bad size")
    assert len(cause(tmp_path / "log")[0]) < 600


def test_deeply_nested_request_does_not_silence_the_kernel(tmp_path: Path) -> None:
    """It ended the thread that listens: nobody would ever have answered the agent again."""
    link = Link(str(tmp_path), lambda op: {"ok": True}, lambda: None)
    link.start()
    for line in (b"[" * 200_000 + b"\n", b'{"op": "ping"}\n'):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(str(tmp_path / "kernel.sock"))
            peer.sendall(line)
            answer = json.loads(peer.makefile().readline())
    assert answer == {"ok": True}


@pytest.mark.parametrize("content", ["../../secret", "/etc/passwd", "files/../../x", "shm/"])
def test_shared_memory_takes_no_content_from_outside(tmp_path: Path, content: str) -> None:
    (tmp_path / "shm").mkdir()
    (tmp_path / "shm.json").write_text(json.dumps(
        [{"path": "a", "mode": 0o100600, "content": content}]))
    with pytest.raises(IntegrityError):
        refill_shared_memory(tmp_path / "shm", tmp_path)
    assert os.listdir(tmp_path / "shm") == []


def test_shared_memory_does_not_write_through_a_link_it_made(tmp_path: Path) -> None:
    saved, shm = tmp_path / "saved", tmp_path / "shm"
    (saved / "shm").mkdir(parents=True)
    shm.mkdir()
    (saved / "shm" / "0").write_text("x")
    (tmp_path / "outside").mkdir()
    for path in ("link/a", "link"):
        (saved / "shm.json").write_text(json.dumps([
            {"path": "link", "mode": 0o120777, "target": "../outside"},
            {"path": path, "mode": 0o100600, "content": "shm/0"}]))
        with pytest.raises(Exception, match=r"leaves /dev/shm|could not be put back"):
            refill_shared_memory(shm, saved)
        (shm / "link").unlink()
    assert os.listdir(tmp_path / "outside") == []


def test_missing_file_with_policy_abort_is_refused_not_an_accident(tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "gone"), "role": "write", "saved": True, "size_bytes": 1,
             "mtime_ns": 1, "content": "files/0"}
    with pytest.raises(RestoreRefused, match="missing"):
        plan_files([entry], "abort", tmp_path, shared=False)


@pytest.mark.parametrize("broken", [{}, {"path": 5}, {"path": "/a", "role": "write", "saved": True,
                                                      "size_bytes": 1, "mtime_ns": 1}])
def test_file_list_that_lacks_something_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        checked([broken], FILES, "files")
    with pytest.raises(IntegrityError):
        parsed(b"[" * 100_000, SHARED_MEMORY, "shm.json")


@pytest.mark.parametrize("chunks", [
    "[[null, 1.5], [null, 1.5]]", "[[null, true], [null, 2]]", "[" * 50_000, '"x"', "{}"])
def test_content_tree_of_odd_lengths_is_corrupt(chunks: str) -> None:
    data = '[{"name": "a", "mode": 384, "size_bytes": 3, "chunks": ' + chunks + "}]"
    with pytest.raises(ChunkCorrupt):
        tree.decode(data.encode())


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x/../y", ""])
def test_content_tree_names_only_what_can_be_a_file(name: str) -> None:
    with pytest.raises(ChunkCorrupt):
        tree.decode(json.dumps(
            [{"name": name, "mode": 384, "size_bytes": 0, "chunks": []}]).encode())


def test_content_tree_beyond_all_memory_is_corrupt() -> None:
    with pytest.raises(ChunkCorrupt):
        tree.decode(json.dumps([{"name": "a", "mode": 384, "size_bytes": 1 << 60,
                                 "chunks": [[None, 1 << 60]]}]).encode())


def test_signature_that_is_no_text_is_invalid() -> None:
    stored = json.dumps({"manifest": fields(), "signature": "\ud800"}).encode()
    with pytest.raises(SignatureInvalid):
        signing.opened(stored, KEY, "0123456789ab")


@pytest.mark.parametrize("change", [
    {"notebook": {"path": 5}}, {"notebook": {}}, {"processes": [7]}, {"files": [{"path": None}]},
    {"warnings": [{}]}, {"pause_s": 10 ** 400}, {"memory_bytes": 1 << 70}, {"kernel": {"id": 5}},
    {"pinned": 1}, {"format": True}])
def test_manifest_with_odd_insides_is_corrupt(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestCorrupt):
        Manifest.from_dict(fields(**change))


@pytest.mark.parametrize("answer", ["", [], {}, {"id": 1}, {"id": "a", "kind": "b", "state": "c",
                                                           "progress": {"done_bytes": "x"}}])
def test_answer_about_a_job_with_odd_insides_is_no_job(answer: Any) -> None:
    with pytest.raises(ProtocolError):
        Job.from_dict(answer)
    assert from_dict([]).message


def test_number_beyond_all_floats_is_no_span() -> None:
    with pytest.raises(UsageError):
        Schedule.from_dict({"every_s": 10 ** 400})


def test_id_like_a_novel_is_not_told_again() -> None:
    with pytest.raises(MalformedId) as caught:
        checked_reference("x" * 5000)
    assert len(caught.value.message) < 200
    assert "5000 characters" in caught.value.message


def test_remembered_use_of_a_store_beyond_all_numbers_is_counted_anew(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    (store.root / "usage.json").write_text(
        json.dumps({"size_bytes": float("inf"), "counted_at_s": time.time()}))
    assert store.usage_bytes() == 0
