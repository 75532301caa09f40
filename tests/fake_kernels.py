"""A stand-in for `jupyter_ckpt.kernels`: no processes, but a real store.

Tests of the command line hand it to `main`. A kernel of it is a record that
names the test's own process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_ckpt.cli.main import main
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.kernel_lookup import find_among
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest, new_id, utc_now
from jupyter_ckpt.plan import changed, shown
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record
from jupyter_ckpt.store import Store

KERNEL_ID = "11111111-aaaa-4000-8000-000000000001"
OTHER_ID = "22222222-bbbb-4000-8000-000000000002"


def a_manifest(kernel_id: str = KERNEL_ID, **changes: Any) -> Manifest:
    """Return a manifest like one of a small session."""
    manifest = Manifest(
        id=new_id(), created_at=utc_now(), content="0" * 64, mode="root",
        kernel={"id": kernel_id, "name": "python3", "language": "python", "execution_count": 7,
                "busy": False, "running": None},
        processes=[{"pid": 12, "ppid": 1, "name": "python3", "rss_bytes": 60_000_000}],
        memory_bytes=60_000_000, pause_s=0.12, duration_s=0.5)
    for name, value in changes.items():
        setattr(manifest, name, value)
    return manifest


def stored(store: Store, manifest: Manifest, data: bytes = b"memory" * 20_000,
           document: bytes | None = None) -> Manifest:
    """Commit `manifest` with one file (and a document); return it as the store keeps it."""
    with store.transaction(f"request-{manifest.id}") as transaction:
        transaction.add_bytes("images/pages-1.img", data)
        if document is not None:
            transaction.add_bytes("notebook.ipynb", document)
        return transaction.commit(manifest)


@dataclass
class FakeKernels:
    """The functions of `jupyter_ckpt.kernels` on records in memory."""

    records: list[Record] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: BaseException | None = None
    """Raised by the next act."""
    cancelled: list[str] = field(default_factory=list)
    cancel_failure: CheckpointError | None = None
    goes_on: bool = False
    """What has become of a request that is taken back."""
    taken_back: list[tuple[str, str, str]] = field(default_factory=list)
    requested: tuple[str, str, str] | None = None
    last_automatic: dict[str, Any] | None = None

    def add(self, kernel_id: str = KERNEL_ID, **changes: Any) -> Record:
        record = Record(kernel_id=kernel_id, kernel=ProcessId.of(os.getpid()),
                        connection_file=f"/run/kernel-{kernel_id}.json")
        for name, value in changes.items():
            setattr(record, name, value)
        self.records.append(record)
        return record

    def _act(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    def list_kernels(self, loc: Locations) -> list[dict[str, Any]]:
        return [{"kernel_id": r.kernel_id, "name": r.kernel_name, "notebook": r.notebook,
                 "pid": r.kernel.pid if r.kernel else None, "state": "running",
                 "memory_bytes": 60_000_000, "mode": r.mode, "last_checkpoint": None}
                for r in self.records]

    def find_kernel(self, loc: Locations, text: str | None) -> Record:
        """Find a kernel as the product does, among the records in memory."""
        return find_among(loc, self.records, {}, text)

    def launch(self, loc: Locations, *, kernel_id: str, kernel_name: str, cmd: Sequence[str],
               env: dict[str, str], cwd: str, connection_file: str, language: str,
               notebook: str | None = None, request_id: str | None = None) -> Record:
        self._act("launch", cmd=list(cmd), env=env, cwd=cwd, language=language,
                  connection=json.loads(Path(connection_file).read_text()))
        return self.add(kernel_id, kernel_name=kernel_name, connection_file=connection_file,
                        notebook=notebook)

    def save(self, loc: Locations, record: Record, *, name: str | None = None,
             note: str | None = None, pin: bool = False, trigger: str = "manual",
             request_id: str | None = None,
             on_progress: Callable[[Job], None] | None = None) -> Manifest:
        self._act("save", kernel_id=record.kernel_id, request_id=request_id)
        if on_progress is not None:
            on_progress(Job(id=str(request_id), kind="checkpoints", state="dumping"))
        manifest = a_manifest(record.kernel_id, name=name, note=note, pinned=pin, trigger=trigger)
        return stored(Store.open(loc.store_dir), manifest)

    def live_agent(self, loc: Locations, record: Record) -> FakeKernels:
        return self

    def cancel(self, kind: str, request_id: str) -> Job:
        self.cancelled.append(request_id)
        if self.cancel_failure is not None:
            raise self.cancel_failure
        return Job(id=request_id, kind=kind, state="failed")

    def take_back(self, loc: Locations, kernel_id: str, kind: str, request_id: str) -> bool:
        self.taken_back.append((kernel_id, kind, request_id))
        if self.cancel_failure is not None:
            raise self.cancel_failure
        return self.goes_on

    def restore(self, loc: Locations, manifest: Manifest, *, kernel_id: str, in_place: bool,
                files: str = "put-back", notebook: str | None = None, wait_s: float | None = None,
                on_progress: Callable[[Job], None] | None = None,
                request_id: str | None = None) -> dict[str, Any]:
        self.requested = (kernel_id, "restores", str(request_id))
        self._act("restore", id=manifest.id, kernel_id=kernel_id, in_place=in_place, files=files,
                  notebook=notebook, wait_s=wait_s)
        return {"kernel_id": kernel_id, "connection_file": f"/run/kernel-{kernel_id}.json",
                "pid": 12, "notebook": notebook, "epoch": 2, "warnings": ["Ports were taken."]}

    def fork(self, loc: Locations, record: Record, n: int,
             on_progress: Callable[[Job], None] | None = None,
             on_request: Callable[[str, str, str], None] | None = None) -> list[dict[str, Any]]:
        if on_request is not None:
            on_request("copy-0", "restores", "request-of-copy-0")
        self._act("fork", kernel_id=record.kernel_id, n=n)
        return [{"kernel_id": f"copy-{i}", "connection_file": f"/run/kernel-copy-{i}.json",
                 "pid": i} for i in range(n)]

    def schedule(self, loc: Locations, record: Record,
                 changes: dict[str, Any] | None = None) -> dict[str, Any]:
        self._act("schedule", kernel_id=record.kernel_id, changes=changes)
        if changes is not None:
            record.schedule = changed(record.schedule, changes)
        there = record.schedule
        return {"kernel_id": record.kernel_id, **shown(there),
                "next_due_s": there and there.every_s, "last_automatic": self.last_automatic}

    def stop(self, loc: Locations, record: Record) -> None:
        self._act("stop", kernel_id=record.kernel_id)
        self.records.remove(record)


@dataclass
class Ran:
    """What a command did: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        found = self.document["error"]
        assert self.code == found["code"]
        assert found["message"]
        assert isinstance(found["hint"], str)
        return found


class Shell:
    """Runs ``jupyter ckpt`` in this process, on a `FakeKernels` and a real store."""

    def __init__(self, capsys: Any, folder: Path) -> None:
        self._capsys = capsys
        self.folder = folder
        self.kernels = FakeKernels()

    @property
    def locations(self) -> Locations:
        return Locations.default(store=None)

    @property
    def store(self) -> Store:
        return Store.open(self.locations.store_dir)

    def run(self, *args: str) -> Ran:
        self._capsys.readouterr()
        code = main(args, kernels=self.kernels)
        captured = self._capsys.readouterr()
        return Ran(code, captured.out, captured.err)


__all__ = ["KERNEL_ID", "OTHER_ID", "FakeKernels", "Ran", "Shell",
           "a_manifest", "stored"]
