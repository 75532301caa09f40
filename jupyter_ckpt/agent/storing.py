"""Storing what a dump captured: its content, then the manifest that makes it visible."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.layout import page_runs
from ..engine.openfiles import OpenFile, process_tree
from ..lasting import is_lasting
from ..manifest import Manifest, utc_after
from ..protocol import TRIGGERS, Job
from ..store import Extent, Store, Transaction
from . import host
from .activity import Mark
from .frozen import FrozenFiles
from .kernel import Kernel
from .libraries import inventory
from .presentfile import digest

PROVEN_WARNING = (
    "Stored data was found damaged, so all that this checkpoint shares with earlier ones was read "
    "back, and stored anew where it was damaged. 'jupyter ckpt verify' tells which are not whole.")


@dataclass
class Captured:
    """One moment of a session, while the session already runs on."""

    began: float = field(default_factory=time.monotonic)
    """When the save began, on the monotonic clock."""
    processes: list[dict[str, Any]] = field(default_factory=list)
    folders: dict[str, int] = field(default_factory=dict)
    """The permissions of the working folders, by path: CRIU compares them on restore."""
    connection: dict[str, Any] | None = None
    """The connection file's content; None when it is missing or malformed."""
    status: dict[str, Any] = field(default_factory=dict)
    """What the kernel said of itself just before the freeze; empty when it did not."""
    internal_ports: list[int] = field(default_factory=list)
    found: list[OpenFile] = field(default_factory=list)
    frozen: FrozenFiles = field(default_factory=FrozenFiles)
    shared: dict[str, Path] = field(default_factory=dict)
    """Copies of shared memory, by the name they are stored under."""
    pause_s: float = 0.0
    mark: Mark | None = None
    """How far the session was, for telling later whether it went on."""
    warnings: list[str] = field(default_factory=list)


class Storing:
    """Puts one capture into a store; nothing is visible before it is all there."""

    def __init__(self, kernel: Kernel, request: dict[str, Any], job: Job, criu_version: str
                 ) -> None:
        self.kernel, self.request, self.job = kernel, request, job
        self.criu_version = criu_version

    def run(self, store: Store, checkpoint_id: str, folder: Path, captured: Captured) -> Manifest:
        """Store CRIU's images in `folder` and what else was `captured`; return the manifest.

        Every file is removed as soon as it is stored. Raises `CheckpointError`
        (`OutOfSpace`, say) and OSError; the store holds no new checkpoint then.
        """
        manifest = self._manifest(checkpoint_id, captured, self.moment(store))
        runs = page_runs(folder)
        manifest.memory_bytes = sum(r.length for file in runs.values() for r in file)
        images = {p: p.stat().st_size for p in folder.iterdir()}
        copies = {**captured.frozen.copies, **captured.shared}
        self.job.total_bytes = sum(images.values()) + sum(
            p.stat().st_size for p in copies.values())

        details = self._details(folder, captured)
        prove = self.kernel.prove_next
        if prove:
            manifest.warnings.append(PROVEN_WARNING)
        with store.transaction(self.job.id, prove_reused=prove) as tx:
            for path in sorted(images):
                extents = [Extent(*run) for run in runs[path.name]] if path.name in runs else None
                tx.add_file(f"images/{path.name}", path, extents, self.job.advance)
                # Gone before the store is synced: else the disk would have to
                # take in all of the session's memory first.
                path.unlink()
            for name, path in details["programs"].items():
                tx.add_file(name, Path(path))
            hashed = {f["content"] for f in manifest.files if f["saved"]}
            hashes = details["file_hashes"] = {}
            for name, path in copies.items():
                if name in hashed:
                    hashes[name] = digest(path)
                tx.add_file(name, path, None, self.job.advance)
                path.unlink()
            skip = (self.kernel.box.inner_runtime, str(self.kernel.folder), "/dev/shm")
            tx.add_bytes("libraries.json", json.dumps(inventory(captured.found, skip)).encode())
            tx.add_bytes("restore.json", json.dumps(details).encode())
            self._add_document(tx, manifest)
            manifest.duration_s = round(time.monotonic() - captured.began, 6)
            # Or somebody would be told of a failure and then find a checkpoint.
            manifest = tx.commit(manifest, self.job.pass_point_of_no_return)
        if prove:
            self.kernel.prove_next = False
        return manifest

    def moment(self, store: Store) -> str:
        """Return when this checkpoint is made: after all others of its kernel and notebook."""
        record = self.kernel.record
        return utc_after(
            m.created_at for m in store.manifests()
            if m.id == record.parent or m.kernel.get("id") == record.kernel_id
            or (record.notebook is not None
                and (m.notebook or {}).get("path") == record.notebook))

    def _manifest(self, checkpoint_id: str, captured: Captured, created_at: str) -> Manifest:
        record, request, status = self.kernel.record, self.request, captured.status
        trigger = request.get("trigger", "manual")
        return Manifest(
            id=checkpoint_id, created_at=created_at, content="0" * 64,
            name=request.get("name"), note=request.get("note"),
            pinned=bool(request.get("pin", False)), parent=record.parent,
            trigger=trigger if trigger in TRIGGERS else "api",
            engine="process", mode=record.mode,
            kernel={"id": record.kernel_id, "name": record.kernel_name,
                    "language": record.language,
                    "execution_count": status.get("execution_count"),
                    "busy": status.get("busy"), "running": _running(status)},
            processes=captured.processes, pause_s=round(captured.pause_s, 6),
            purpose=request.get("purpose"), files=captured.frozen.files,
            host=host.describe(self.criu_version),
            warnings=captured.warnings + captured.frozen.warnings)

    def _details(self, images: Path, captured: Captured) -> dict[str, Any]:
        """Describe what only a restore needs; holds secrets, so it is no manifest field."""
        record = self.kernel.record
        tree = process_tree(images)
        return {
            "root_pid": record.root_inner_pid, "kernel_pid": record.kernel_inner_pid,
            "highest_pid": tree.highest_pid, "mode": record.mode,
            "inner_runtime": self.kernel.box.inner_runtime, "runtime": str(self.kernel.folder),
            "connection": captured.connection, "connection_file": record.connection_file,
            "cwd": record.cwd, "injected": record.injected,
            "link_seen": record.link_seen, "env": record.env,
            "working_folders": captured.folders, "cpu_flags": host.cpu()[1], "epoch": record.epoch,
            "session": record.session, "internal_ports": captured.internal_ports,
            "schedule": record.schedule.to_dict() if record.schedule else None,
            "programs": _programs(captured.found),
        }

    def _add_document(self, tx: Transaction, manifest: Manifest) -> None:
        """Add the notebook: the live one the caller sent, else the file."""
        path = self.kernel.record.notebook
        document = self.request.get("document") or {}
        sent = document.get("content_base64")
        path = document.get("path") or path
        if path is None:
            return
        try:
            data = base64.b64decode(sent) if isinstance(sent, str) else Path(path).read_bytes()
        except (OSError, ValueError) as error:
            manifest.warnings.append(
                f"The notebook {path} could not be read ({error}): "
                "the checkpoint has no document.")
            return
        tx.add_bytes("notebook.ipynb", data)
        manifest.notebook = {"path": path, "sha256": tx.document_hash(data)}


def _programs(found: list[OpenFile]) -> dict[str, str]:
    """Return our own programs that the session runs: {content name: path}."""
    paths = (file.path for file in found if file.role == "mapped")
    return {f"programs/{number}": path
            for number, path in enumerate(sorted(filter(is_lasting, paths)))}


def _running(status: dict[str, Any]) -> dict[str, Any] | None:
    running = status.get("running")
    if not running:
        return None
    return {"msg_id": running.get("msg_id"), "cell_id": running.get("cell_id"),
            "session": running.get("session"),
            "execution_count": running.get("execution_count")}
