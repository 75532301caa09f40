"""Saving: quiesce, freeze and dump, thaw, store, manifest."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ..engine.criu import GHOST_LIMIT_BYTES, Criu
from ..engine.holders import Watch, await_end
from ..engine.layout import page_runs
from ..engine.openfiles import OpenFile, open_files, process_tree
from ..engine.preflight import check_can_be_saved
from ..engine.sockets import inet_sockets
from ..errors import CheckpointRefused, DumpFailed, NameTaken, OutOfSpace
from ..faults import point
from ..lasting import is_lasting
from ..manifest import Manifest, checked_name, utc_after
from ..protocol import KERNEL_SOCKET_NAME, SOCKET_NAME, TRIGGERS, Job
from ..record import write_private
from ..store import Extent, Store
from ..store.disk import NO_SPACE
from . import host
from .activity import Mark
from .connections import lost_connections
from .frozen import FrozenFiles, copy_open_files, copy_shared_memory, file_limit
from .kernel import Kernel, wait_for_start
from .libraries import inventory
from .presentfile import digest
from .tools import Tools, criu_mark

QUIESCE_DEADLINE_S = 5.0
HOOK_DEADLINE_S = 30.0
PREDECESSOR_DEADLINE_S = 120.0
COPIES = "copies"
PROVEN_WARNING = (
    "Stored data was found damaged, so all that this checkpoint shares with earlier ones was read "
    "back, and stored anew where it was damaged. 'jupyter ckpt verify' tells which are not whole.")
NOT_QUIET = "hooks did not run and buffered output was not flushed."


class Save:
    """The checkpoint `checkpoint_id` in the making.

    Whatever fails, the kernel runs on and no checkpoint is visible: the
    manifest is written last.
    """

    def __init__(self, tools: Tools, kernel: Kernel, request: dict[str, Any], job: Job,
                 checkpoint_id: str,
                 standing_still: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`standing_still` is entered while criu has the tree."""
        self.standing_still = standing_still
        self.tools, self.kernel, self.request, self.job = tools, kernel, request, job
        self.checkpoint_id = checkpoint_id
        self.file_limit_bytes, self.warnings = file_limit()
        self.status: dict[str, Any] = {}
        self.connection: dict[str, Any] | None = None
        self.internal_ports: list[int] = []
        self.frozen = FrozenFiles()
        self.shared: dict[str, Path] = {}
        self.found: list[OpenFile] = []
        self.mark: Mark | None = None
        """How far the session was, for telling later whether it went on."""

    def run(self) -> Manifest:
        """Save and return the stored manifest. Raises `DumpFailed` and its kinds."""
        began = time.monotonic()
        store = self.tools.store()
        store.check_writing()
        self._check_name(store)
        with self.tools.work_folder(
                self.job.id, criu_mark(self.kernel.record.kernel_id)) as work:
            images = work / "images"
            images.mkdir()
            criu = self.tools.criu(self.kernel.box, self.kernel.record.mode, work)
            processes = self.kernel.processes()
            folders = self.kernel.working_folders()
            self._read_connection()
            point("save.begun")
            self.job.enter("quiescing")
            self._await_predecessors()  # or they would be found as tracers of the tree
            self._check_tree()
            with self.kernel.link.held():
                self._quiesce()
                point("save.quiesced")
                pause_s = self._dump(criu, images, work)
            # The processor time only now: being saved costs the session some of it.
            self.mark = Mark.of(self.kernel.record.root, self.status)
            point("save.thawed")
            self.job.enter("storing")
            self._warn_of_lost_connections(images)
            manifest = self._manifest(processes, pause_s, self._moment(store))
            return self._store(store, manifest, images, folders, began)

    def _dump(self, criu: Criu, images: Path, work: Path) -> float:
        """Freeze, dump and thaw; return the pause in seconds. The kernel is quiet."""
        try:
            self.job.enter("dumping")  # the last moment to be cancelled
            with self.standing_still():
                return criu.dump(
                    self.kernel.root_inner_pid, images, self.kernel.box.command,
                    lambda: self._while_frozen(images, work),
                    lambda: _copied(work / COPIES), self._tell)
        except OSError as error:
            raise _disk_error(error) from error
        except DumpFailed as error:
            self._keep_log(error)
            raise
        finally:
            point("save.dumped")
            self._resume()

    def _read_connection(self) -> None:
        """Read ports and key now: should the kernel die while it is stored, its file goes."""
        self.connection = self.kernel.connection()
        if self.connection is None:
            path = self.kernel.record.connection_file
            self.warnings.append(f"The connection file {path} is missing or malformed.")

    def _warn_of_lost_connections(self, images: Path) -> None:
        ports = {*self.internal_ports}
        ports.update(p for n, p in (self.connection or {}).items() if n.endswith("_port"))
        self.warnings += lost_connections(
            inet_sockets(images), ports, self.kernel.record.mode)

    def _await_predecessors(self) -> None:
        """Wait for the criu of an agent that died: until it ends, it has the tree."""
        if not await_end(Watch(criu_mark(self.kernel.record.kernel_id), tell=self._tell),
                         self._tell, PREDECESSOR_DEADLINE_S):
            raise DumpFailed(
                f"An earlier criu has held the session for {PREDECESSOR_DEADLINE_S:.0f} s "
                f"({self.job.phase}).", "It is not killed, for the session would suffer; "
                "save again when it has ended.")

    def _tell(self, text: str) -> None:
        self.job.phase = text

    def _keep_log(self, error: DumpFailed) -> None:
        """Keep CRIU's log of a failed dump beside the kernel's own logs."""
        if error.log:
            kept = self.kernel.folder / "dump.log"
            with suppress(OSError):
                write_private(kept, Path(error.log).read_bytes())
                error.hint = error.hint.replace(error.log, str(kept))
                error.log = str(kept)

    def _check_name(self, store: Store) -> None:
        name = self.request.get("name")
        if name is None:
            return
        self.request["name"] = name = checked_name(str(name))
        if any(m.name == name for m in store.manifests()):
            raise NameTaken(f"There is already a checkpoint named {name!r}.",
                            "Choose another name, or rename or remove the old one.")

    def _check_tree(self) -> None:
        """Raise `CannotBeSaved` naming what stands in the way; nothing was asked of the kernel."""
        root = self.kernel.record.root
        assert root is not None
        check_can_be_saved(root.pid, self.kernel.record.mode, GHOST_LIMIT_BYTES,
                           (SOCKET_NAME, KERNEL_SOCKET_NAME))

    def _quiesce(self) -> None:
        wait_for_start(self.kernel, self.job)
        answer = self.kernel.link.ask(
            "quiesce", HOOK_DEADLINE_S + QUIESCE_DEADLINE_S, request_id=self.job.id,
            deadline_s=HOOK_DEADLINE_S, trigger=self.request.get("trigger", "manual"))
        if answer is None:
            if self.kernel.record.injected:
                why = ("its interpreter is held by native code" if self.kernel.record.link_seen
                       else "its in-kernel part was never heard")
                self.warnings.append(f"The kernel did not answer before the freeze ({why}): "
                                     f"{NOT_QUIET}")
            return
        if answer.get("refused"):
            raise CheckpointRefused(f"A hook refused the checkpoint: {answer['refused']}")
        if not answer.get("ok"):
            self._note_not_quiet(answer.get("error"))
            return
        self.warnings += answer.get("warnings", ())
        self.status = answer.get("status") or {}
        self.internal_ports = answer.get("internal_ports", [])

    def _note_not_quiet(self, error: Any) -> None:
        """Warn that the kernel could not prepare; raise `DumpFailed` if it is being saved."""
        said = error if isinstance(error, dict) else {}
        message = str(said.get("message") or "it does not say why")
        if said.get("id") == "busy":
            raise DumpFailed(f"The kernel cannot be saved now: {message}", "Save again.")
        self.warnings.append(f"The kernel could not prepare for the freeze ({message}): "
                             f"{NOT_QUIET}")

    def _resume(self) -> None:
        self.kernel.link.ask("resume", QUIESCE_DEADLINE_S, restored=False, request_id=self.job.id)

    def _while_frozen(self, images: Path, work: Path) -> None:
        point("save.frozen")
        self.found = open_files(images)
        skip = [self.kernel.box.inner_runtime, str(self.kernel.folder)]
        copies = work / COPIES
        copies.mkdir()
        if self.kernel.box.init is not None:
            skip.append("/dev/shm")
            self.shared = copy_shared_memory(self.kernel.box.path("/dev/shm"), copies)
        self.frozen = copy_open_files(
            self.found, copies, tuple(skip), self.file_limit_bytes)
        point("save.copied")

    def _moment(self, store: Store) -> str:
        """Return when this checkpoint is made: after all others of its kernel and notebook."""
        record = self.kernel.record
        return utc_after(
            m.created_at for m in store.manifests()
            if m.id == record.parent or m.kernel.get("id") == record.kernel_id
            or (record.notebook is not None
                and (m.notebook or {}).get("path") == record.notebook))

    def _manifest(self, processes: list[dict[str, Any]], pause_s: float, created_at: str
                  ) -> Manifest:
        record, request, status = self.kernel.record, self.request, self.status
        trigger = request.get("trigger", "manual")
        return Manifest(
            id=self.checkpoint_id, created_at=created_at, content="0" * 64,
            name=request.get("name"), note=request.get("note"),
            pinned=bool(request.get("pin", False)), parent=record.parent,
            trigger=trigger if trigger in TRIGGERS else "api",
            engine="process", mode=record.mode,
            kernel={"id": record.kernel_id, "name": record.kernel_name,
                    "language": record.language,
                    "execution_count": status.get("execution_count"),
                    "busy": status.get("busy"), "running": _running(status)},
            processes=processes, pause_s=round(pause_s, 6),
            purpose=_purpose(request), files=self.frozen.files,
            host=host.describe(self.tools.criu_binary().version),
            warnings=self.warnings + self.frozen.warnings)

    def _store(
        self, store: Store, manifest: Manifest, images: Path, folders: dict[str, int], began: float
    ) -> Manifest:
        runs = page_runs(images)
        manifest.memory_bytes = sum(r.length for file in runs.values() for r in file)
        sizes = {p: p.stat().st_size for p in images.iterdir()}
        copies = {**self.frozen.copies, **self.shared}
        self.job.total_bytes = sum(sizes.values()) + sum(p.stat().st_size for p in copies.values())

        details = self._details(images, folders)
        prove = self.kernel.prove_next
        if prove:
            manifest.warnings.append(PROVEN_WARNING)
        with store.transaction(self.job.id, prove_reused=prove) as tx:
            for path in sorted(sizes):
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
            tx.add_bytes("libraries.json", json.dumps(inventory(self.found, skip)).encode())
            tx.add_bytes("restore.json", json.dumps(details).encode())
            self._add_document(tx, manifest)
            manifest.duration_s = round(time.monotonic() - began, 6)
            # Or somebody would be told of a failure and then find a checkpoint.
            manifest = tx.commit(manifest, self.job.pass_point_of_no_return)
        if prove:
            self.kernel.prove_next = False
        return manifest

    def _details(self, images: Path, folders: dict[str, int]) -> dict[str, Any]:
        """Describe what only a restore needs; holds secrets, so it is no manifest field."""
        record = self.kernel.record
        tree = process_tree(images)
        return {
            "root_pid": record.root_inner_pid, "kernel_pid": record.kernel_inner_pid,
            "highest_pid": tree.highest_pid, "mode": record.mode,
            "inner_runtime": self.kernel.box.inner_runtime, "runtime": str(self.kernel.folder),
            "connection": self.connection, "connection_file": record.connection_file,
            "cwd": record.cwd, "injected": record.injected,
            "link_seen": record.link_seen, "env": record.env,
            "working_folders": folders, "cpu_flags": host.cpu()[1], "epoch": record.epoch,
            "session": record.session, "internal_ports": self.internal_ports,
            "schedule": record.schedule.to_dict() if record.schedule else None,
            "programs": self._programs(),
        }

    def _programs(self) -> dict[str, str]:
        """Return our own programs that the session runs: {content name: path}."""
        paths = (file.path for file in self.found if file.role == "mapped")
        return {f"programs/{number}": path
                for number, path in enumerate(sorted(filter(is_lasting, paths)))}

    def _add_document(self, tx: Any, manifest: Manifest) -> None:
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


def _purpose(request: dict[str, Any]) -> str | None:
    purpose = request.get("purpose")
    return purpose if isinstance(purpose, str) else None


def _copied(folder: Path) -> object:
    """Return a measure of what was copied so far."""
    try:
        return sorted((entry.name, entry.stat().st_size) for entry in os.scandir(folder))
    except OSError:
        return None


def _running(status: dict[str, Any]) -> dict[str, Any] | None:
    running = status.get("running")
    if not running:
        return None
    return {"msg_id": running.get("msg_id"), "cell_id": running.get("cell_id"),
            "session": running.get("session"),
            "execution_count": running.get("execution_count")}


def _disk_error(error: OSError) -> DumpFailed:
    if error.errno in NO_SPACE:
        return OutOfSpace("The disk of the checkpoint store is full.",
                          "Free space, remove checkpoints, or choose another store.")
    return DumpFailed(f"Copying the session's files failed: {error}.")
