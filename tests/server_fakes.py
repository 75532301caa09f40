"""A stand-in for `jupyter_ckpt.kernels` and its agents, without CRIU.

Kernels are ordinary processes, a checkpoint holds only the notebook, and a
restore starts a fresh kernel on the connection it was given. Files in a
kernel's runtime folder steer it: ``running.json`` (what runs), ``fail.json``
(the error that the next act meets), ``hold`` (a save, and a restore in place whose
old kernel is gone, wait while it exists),
``move`` (a restore comes back on other ports).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_client.connect import write_connection_file

from jupyter_ckpt import errors
from jupyter_ckpt.kernel_ports import kernel_ports
from jupyter_ckpt.manifest import Manifest, new_id, utc_now
from jupyter_ckpt.plan import Schedule, changed, shown
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record, all_records, read_record, record_folder, write_record
from jupyter_ckpt.store import Store

OnProgress = Callable[[Job], None] | None


class FakeAgentClient:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note_session(self, **fields: Any) -> None:
        write_record(self.folder, replace(read_record(self.folder), **fields))

    def shutdown(self) -> None:
        _kill(read_record(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def running(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / "running.json").read_bytes())
            return found
        except FileNotFoundError:
            return {"busy": False, "running": None, "recent": []}

    def job(self, kind: str, job_id: str) -> Job:
        try:
            return Job.from_dict(json.loads((self.folder / f"job-{job_id}.json").read_bytes()))
        except FileNotFoundError:
            raise errors.JobNotFound("unknown") from None


def live_agent(loc: Any, record: Record) -> FakeAgentClient:
    return FakeAgentClient(record_folder(loc.runtime_dir, record.kernel_id))


def list_kernels(loc: Any) -> list[dict[str, Any]]:
    return [{"kernel_id": record.kernel_id, "notebook": record.notebook}
            for record in all_records(loc.runtime_dir)[0]]


def launch(loc: Any, *, kernel_id: str, kernel_name: str, cmd: list[str], env: dict[str, str],
           cwd: str, connection_file: str, language: str, notebook: str | None = None,
           session: Any = None, owner: Any = None,
           schedule: Schedule | None = None) -> Record:
    folder = record_folder(loc.runtime_dir, kernel_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = subprocess.Popen(cmd, env=env, cwd=cwd, start_new_session=True,
                               stdin=subprocess.DEVNULL)
    record = Record(kernel_id, kernel_name, language, cwd=cwd, connection_file=connection_file,
                    kernel=ProcessId.of(process.pid), owner=owner, session=session,
                    notebook=notebook, schedule=schedule,
                    env={k: v for k, v in env.items() if k.startswith("JPY_")})
    write_record(folder, record)
    return record


def schedule(loc: Any, record: Record, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    folder = record_folder(loc.runtime_dir, record.kernel_id)
    if changes is not None:
        record = replace(read_record(folder), schedule=changed(record.schedule, changes))
        write_record(folder, record)
    return {"kernel_id": record.kernel_id, **shown(record.schedule), "next_due_s": None,
            "last_automatic": None}


def _kill(record: Record) -> None:
    if record.kernel and record.kernel.is_alive():
        os.killpg(record.kernel.pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while record.kernel.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)


def _wait_while_held(folder: Path, look: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + 120
    while True:
        look()
        if not (folder / "hold").exists() or time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _fail_if_told(folder: Path) -> None:
    told = folder / "fail.json"
    if told.exists():
        error = errors.from_dict(json.loads(told.read_bytes()))
        told.unlink()
        raise error


def save(loc: Any, record: Record, *, name: str | None = None, note: str | None = None,
         pin: bool = False, trigger: str = "manual", request_id: str | None = None,
         document: Any = None, on_progress: OnProgress = None) -> Manifest:
    folder = record_folder(loc.runtime_dir, record.kernel_id)
    record = read_record(folder)
    job = Job(request_id or uuid.uuid4().hex, "checkpoint", "dumping", "freezing", 1, 4)
    _wait_while_held(folder, lambda: on_progress(job) if on_progress else None)
    _fail_if_told(folder)
    with Store.open(loc.store_dir).transaction(job.id) as tx:
        manifest = Manifest(
            new_id(), utc_now(), {"id": record.kernel_id, "name": record.kernel_name}, "0" * 64,
            name=name, note=note, pinned=pin, trigger=trigger,
            notebook={"path": record.notebook, "sha256": ""} if record.notebook else None)
        if record.notebook and Path(record.notebook).exists():
            tx.add_bytes("notebook.ipynb", Path(record.notebook).read_bytes())
        manifest = tx.commit(manifest)
    job.state, job.result = "done", manifest.to_dict()
    (folder / f"job-{job.id}.json").write_text(json.dumps(job.to_dict()))
    return manifest


def secure(loc: Any, record: Record, *, trigger: str, document: Any = None,
           deadline_s: float | None = None) -> Manifest:
    return save(loc, record, trigger=trigger, document=document)


def restore(loc: Any, manifest: Manifest, *, kernel_id: str, in_place: bool,
            files: str | None = None, connection: dict[str, Any] | None = None,
            connection_file: str | None = None, notebook: str | None = None, session: Any = None,
            owner: Any = None, wait_s: float | None = None,
            on_progress: OnProgress = None) -> dict[str, Any]:
    folder = record_folder(loc.runtime_dir, kernel_id)
    file = connection_file or str(loc.connection_dir / f"kernel-{kernel_id}.json")
    error: errors.CheckpointError | None = None
    try:
        _fail_if_told(folder)
    except errors.CheckpointError as told:
        error = told
    if in_place:
        _kill(read_record(folder))
        _wait_while_held(folder)
    elif (loc.runtime_dir / "fail.json").exists():
        _fail_if_told(loc.runtime_dir)
    if connection is None or (folder / "move").exists():
        write_connection_file(file, key=uuid.uuid4().hex.encode(), **kernel_ports("127.0.0.1"))
    record = launch(
        loc, kernel_id=kernel_id, kernel_name="python3", env=dict(os.environ),
        cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", file],
        cwd=str(folder.parent), connection_file=file,
        language="python", notebook=notebook, session=session, owner=owner)
    if error is not None:
        raise error
    assert record.kernel is not None
    return {"kernel_id": kernel_id, "connection_file": file, "pid": record.kernel.pid,
            "notebook": notebook, "epoch": 2, "warnings": ["something to know"]}


def fork(loc: Any, record: Record, n: int, on_progress: OnProgress = None) -> list[dict[str, Any]]:
    made = []
    for _ in range(n):
        manifest = Manifest(new_id(), utc_now(), {"id": record.kernel_id}, "0" * 64)
        made.append(restore(loc, manifest, kernel_id=str(uuid.uuid4()), in_place=False))
    return made


CONFIGURATION = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import server_fakes
import jupyter_ckpt.server.backend as backend
backend.kernels = server_fakes
backend.AgentClient = server_fakes.FakeAgentClient
backend.parking.secure = server_fakes.secure
backend.Backend.require_process_checkpoints = lambda self: None
c.CheckpointApp.agent_check_s = 0  # there are no agents
"""
"""Put into a server's configuration file, this gives it the stand-in."""


def finish_unfinished(loc: Any) -> None:
    """Nothing is ever unfinished here: restores of the stand-in are one step."""
