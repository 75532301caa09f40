"""Records, schedules, names, command lines, and the JSON files of a restore."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path

from mutation import json_mutator, with_tokens
from target import Target
from targets_store import FULL, run_cli

from jupyter_ckpt.agent import saved
from jupyter_ckpt.agent.frozen import refill_shared_memory
from jupyter_ckpt.agent.libraries import check_unchanged
from jupyter_ckpt.agent.savedfiles import plan_files, present_states
from jupyter_ckpt.errors import CheckpointError, from_dict
from jupyter_ckpt.manifest import Manifest, checked_name, checked_reference
from jupyter_ckpt.plan import Schedule, changed, parse_span, sentence
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job, checked_kernel_id, checked_request_id
from jupyter_ckpt.record import Record, all_records, read_record
from jupyter_ckpt.store import Store

KERNEL_ID = "kernel-0001"


class RecordFile(Target):
    """A runtime record with any bytes in it."""

    name = "record"
    weight = 2
    mutate = staticmethod(json_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.own = folder / "runtime" / KERNEL_ID
        self.own.mkdir(parents=True)

    def seeds(self) -> list[bytes]:
        here = ProcessId.of(os.getpid())
        return [json.dumps(Record(
            KERNEL_ID, kernel=here, root=here, init=here, agent=here, notebook="/a/b.ipynb",
            connection_file="/run/kernel-1.json", schedule=Schedule(600, 3, 5),
            owner={"pid": 1, "start_time": 2, "root_dir": "/", "url": "http://h/"},
            session={"id": "s", "path": "b.ipynb", "name": "b", "type": "notebook"},
            env={"JPY_SESSION_NAME": "x"}).to_dict()).encode()]

    def run(self, data: bytes) -> None:
        (self.own / "record.json").write_bytes(data)
        records, problems = all_records(self.own.parent)
        assert len(records) + len(problems) == 1
        record = read_record(self.own)
        record.is_alive()
        record.is_unfinished()
        Record.from_dict(json.loads(json.dumps(record.to_dict())))


class JobAnswer(Target):
    """What an agent (or whoever is in its place) answers about a job."""

    name = "job-answer"
    weight = 1
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        job = Job("request-0001", "checkpoints", "failed", "x", 1, 2, {"id": "0"},
                  CheckpointError("It failed.", "Do this.", "/a/log"), ["w"])
        return [json.dumps(job.to_dict()).encode()]

    def run(self, data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        Job.from_dict(found).to_dict()
        if isinstance(found, dict):
            from_dict(found)


class Schedules(Target):
    """A schedule as a record, a request or a command line gives it."""

    name = "schedule"
    weight = 2
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [json.dumps(one).encode() for one in (
            {"every": "10m", "cells": 5, "keep": 3}, {"every_s": 600.0}, {"off": True},
            {"every": "1d", "keep": None})]

    def run(self, data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        Schedule.from_dict(found)
        schedule = changed(Schedule(60, None, 3), found)
        if schedule is not None:
            assert Schedule.from_dict(schedule.to_dict()) == schedule
            sentence(schedule.to_dict() | {"keep": schedule.kept})


_WORDS = [b"10m", b"1e9", b".", b" ", b"99999999999", b"0", b"-", b"/", b"\0", b"..", b"abcdef01",
          b"h", b"min", "é".encode(), "\u0661".encode(), b"\xff", b"a" * 200, b"\n"]


class Words(Target):
    """Any word in the place of an id, a name or a span of time."""

    name = "words"
    weight = 3
    mutate = staticmethod(with_tokens(_WORDS))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = Store.open(folder / "store")

    def seeds(self) -> list[bytes]:
        return [b"0123456789abcdef", b"before training", b"10m", b"1.5 h", b"kernel-0001", b"30s"]

    def run(self, data: bytes) -> None:
        word = data.decode("utf-8", "surrogateescape")
        for read in (checked_name, checked_reference, checked_kernel_id, checked_request_id,
                     parse_span, self.store.resolve, self.store.resolve_id):
            try:
                read(word)
            except CheckpointError as error:
                if len(error.message) > 600:
                    raise AssertionError("a message like a novel") from error
        self.store.resolve(word)


class CommandLine(Target):
    """Any words after ``jupyter ckpt``."""

    name = "cli"
    weight = 0.15
    mutate = staticmethod(with_tokens([
        *_WORDS, b" show ", b" list ", b" verify ", b" rm ", b" rename ", b" pin ", b" schedule ",
        b" restore ", b" --json ", b" --every ", b" --note ", b" -- ", b" '' ", b" fork -n "]))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        Store.open(folder / "store")
        os.environ.update(JUPYTER_DATA_DIR=str(folder), JUPYTER_RUNTIME_DIR=str(folder / "run"))

    def seeds(self) -> list[bytes]:
        return [b"show abcd", b"list k --json", b"schedule k --every 10m --keep 3", b"rm a b",
                b"rename abcd 'a name'", b"verify", b"restore abcd --files keep --new",
                b"fork k -n 2", b"save k --name n --note t --pin"]

    def run(self, data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape").replace("\0", "")
        try:
            words = shlex.split(text)
        except ValueError:
            words = text.split()
        # Nothing that starts, fetches or writes elsewhere.
        words = [word for word in words
                 if word not in ("setup", "start", "doctor") and not word.startswith(
                     ("--store", "--st", "--k"))]
        run_cli([*words[:1], "--store", str(self.folder / "store"), *words[1:]])


class SharedMemory(Target):
    """The list of a session's shared memory: it may not leave its folder."""

    name = "shm-json"
    weight = 0.5
    mutate = staticmethod(json_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved, self.shm = folder / "saved", folder / "shm"
        (self.saved / "shm").mkdir(parents=True)
        (self.saved / "shm" / "0").write_bytes(b"shared")
        (folder / "secret").write_bytes(b"secret")

    def seeds(self) -> list[bytes]:
        return [json.dumps([
            {"path": "d", "mode": 0o40700}, {"path": "d/a", "mode": 0o100600, "content": "shm/0"},
            {"path": "l", "mode": 0o120777, "target": "../outside"},
            {"path": "l/x", "mode": 0o100600, "content": "shm/0"}]).encode()]

    def run(self, data: bytes) -> None:
        (self.saved / "shm.json").write_bytes(data)
        self.shm.mkdir()
        try:
            refill_shared_memory(self.shm, self.saved)
        finally:
            _clear(self.shm)
            assert sorted(os.listdir(self.folder)) == ["saved", "secret"]


class RestoreFiles(Target):
    """The manifest's files, libraries and details: what is decided before a restore."""

    name = "restore-files"
    weight = 1
    mutate = staticmethod(json_mutator)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.saved = folder / "saved"
        (self.saved / "files").mkdir(parents=True)
        (self.saved / "files" / "0").write_bytes(b"saved")
        self.user = folder / "user.csv"
        self.user.write_bytes(b"now")

    def seeds(self) -> list[bytes]:
        status = self.user.stat()
        library = {"path": str(self.user), "size_bytes": 3, "mtime_ns": status.st_mtime_ns,
                   "ctime_ns": 0, "inode": 0, "blake3": "0" * 64}
        files = [{"path": str(self.user), "role": role, "saved": role == "write", "size_bytes": 5,
                  "mtime_ns": 1, "mode": 420, **({"content": "files/0"} if role == "write" else {})}
                 for role in ("write", "append", "read", "history")]
        return [json.dumps({"files": files, "libraries": [library]}).encode()]

    def run(self, data: bytes) -> None:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(found, dict):
            return
        with suppress(CheckpointError):
            check_unchanged(saved.checked(found.get("libraries"), saved.LIBRARIES, "libraries"))
        files = Manifest.from_dict({**FULL, "files": found.get("files", [])}).files
        for policy in ("put-back", "keep", "abort"):
            with suppress(CheckpointError):
                present_states(files, plan_files(files, policy, self.saved, False))


def _clear(folder: Path) -> None:
    for top, folders, names in os.walk(folder, topdown=False):
        os.chmod(top, 0o700)
        for name in names:
            os.unlink(os.path.join(top, name))
        for name in folders:
            path = os.path.join(top, name)
            (os.unlink if os.path.islink(path) else os.rmdir)(path)
    os.rmdir(folder)
