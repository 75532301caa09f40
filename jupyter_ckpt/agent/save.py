"""Saving: quiesce, freeze and dump, thaw; `storing` does the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ..engine.criu import GHOST_LIMIT_BYTES, Criu
from ..engine.holders import Watch, await_end
from ..engine.openfiles import open_files
from ..engine.preflight import check_can_be_saved
from ..engine.sockets import inet_sockets
from ..errors import CheckpointRefused, DumpFailed, NameTaken, OutOfSpace
from ..faults import point
from ..manifest import Manifest, checked_name
from ..protocol import KERNEL_SOCKET_NAME, SOCKET_NAME, Job
from ..record import write_private
from ..store import Store
from ..store.disk import NO_SPACE
from .activity import Mark
from .connections import lost_connections
from .frozen import copy_open_files, copy_shared_memory, file_limit
from .kernel import Kernel, wait_for_start
from .storing import Captured, Storing
from .tools import Tools, criu_mark

QUIESCE_DEADLINE_S = 5.0
HOOK_DEADLINE_S = 30.0
PREDECESSOR_DEADLINE_S = 120.0
COPIES = "copies"
NOT_QUIET = "hooks did not run and buffered output was not flushed."


class Save:
    """The checkpoint `checkpoint_id` in the making.

    Whatever fails, the kernel runs on and no checkpoint is visible: the
    manifest is written last. ``captured`` fills while it runs.
    """

    def __init__(self, tools: Tools, kernel: Kernel, request: dict[str, Any], job: Job,
                 checkpoint_id: str,
                 standing_still: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`standing_still` is entered while criu has the tree."""
        self.standing_still = standing_still
        self.tools, self.kernel, self.request, self.job = tools, kernel, request, job
        self.checkpoint_id = checkpoint_id
        self.file_limit_bytes, warnings = file_limit()
        self.captured = Captured(warnings=warnings)

    def run(self) -> Manifest:
        """Save and return the stored manifest. Raises `DumpFailed` and its kinds."""
        captured = self.captured
        store = self.tools.store()
        store.check_writing()
        self._check_name(store)
        with self.tools.work_folder(
                self.job.id, criu_mark(self.kernel.record.kernel_id)) as work:
            images = work / "images"
            images.mkdir()
            criu = self.tools.criu(self.kernel.box, self.kernel.record.mode, work)
            captured.processes = self.kernel.processes()
            captured.folders = self.kernel.working_folders()
            self._read_connection()
            point("save.begun")
            self.job.enter("quiescing")
            self._await_predecessors()  # or they would be found as tracers of the tree
            self._check_tree()
            with self.kernel.link.held():
                self._quiesce()
                self.kernel.link.settle()
                point("save.quiesced")
                captured.pause_s = self._dump(criu, images, work)
            # The processor time only now: being saved costs the session some of it.
            captured.mark = Mark.of(self.kernel.record.root, captured.status)
            point("save.thawed")
            self.job.enter("storing")
            self._warn_of_lost_connections(images)
            version = self.tools.criu_binary().version
            return Storing(self.kernel, self.request, self.job, version).run(
                store, self.checkpoint_id, images, captured)

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
        self.captured.connection = self.kernel.connection()
        if self.captured.connection is None:
            path = self.kernel.record.connection_file
            self.captured.warnings.append(f"The connection file {path} is missing or malformed.")

    def _warn_of_lost_connections(self, images: Path) -> None:
        ports = {*self.captured.internal_ports}
        ports.update(p for n, p in (self.captured.connection or {}).items() if n.endswith("_port"))
        self.captured.warnings += lost_connections(
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
        self.request["name"] = name = checked_name(name)
        if any(m.name == name for m in store.manifests()):
            raise NameTaken(f"There is already a checkpoint named {name!r}.",
                            "Choose another name, or rename or remove the old one.")

    def _check_tree(self) -> None:
        """Raise `CannotBeSaved` naming what stands in the way; nothing was asked of the kernel."""
        record = self.kernel.record
        assert record.root is not None and record.kernel is not None
        check_can_be_saved(record.root.pid, record.mode, GHOST_LIMIT_BYTES,
                           (SOCKET_NAME, KERNEL_SOCKET_NAME), record.kernel.pid)

    def _quiesce(self) -> None:
        wait_for_start(self.kernel, self.job)
        answer = self.kernel.link.ask(
            "quiesce", HOOK_DEADLINE_S + QUIESCE_DEADLINE_S, request_id=self.job.id,
            deadline_s=HOOK_DEADLINE_S, trigger=self.request.get("trigger", "manual"))
        if answer is None:
            if self.kernel.is_stopped():
                self._check_tree()  # it was stopped just now: that is what is wrong
            if self.kernel.record.injected:
                why = ("its interpreter is held by native code" if self.kernel.record.link_seen
                       else "its in-kernel part was never heard")
                self.captured.warnings.append(
                    f"The kernel did not answer before the freeze ({why}): {NOT_QUIET}")
            return
        if answer.get("refused"):
            raise CheckpointRefused(f"A hook refused the checkpoint: {answer['refused']}")
        if not answer.get("ok"):
            self._note_not_quiet(answer.get("error"))
            return
        self.captured.warnings += answer.get("warnings", ())
        self.captured.status = answer.get("status") or {}
        self.captured.internal_ports = answer.get("internal_ports", [])

    def _note_not_quiet(self, error: Any) -> None:
        """Warn that the kernel could not prepare; raise `DumpFailed` if it is being saved."""
        said = error if isinstance(error, dict) else {}
        message = str(said.get("message") or "it does not say why")
        if said.get("id") == "busy":
            raise DumpFailed(f"The kernel cannot be saved now: {message}", "Save again.")
        self.captured.warnings.append(
            f"The kernel could not prepare for the freeze ({message}): {NOT_QUIET}")

    def _resume(self) -> None:
        self.kernel.link.ask("resume", QUIESCE_DEADLINE_S, restored=False, request_id=self.job.id)

    def _while_frozen(self, images: Path, work: Path) -> None:
        point("save.frozen")
        self.captured.found = open_files(images)
        skip = [self.kernel.box.inner_runtime, str(self.kernel.folder)]
        copies = work / COPIES
        copies.mkdir()
        if self.kernel.box.init is not None:
            skip.append("/dev/shm")
            self.captured.shared = copy_shared_memory(self.kernel.box.path("/dev/shm"), copies)
        self.captured.frozen = copy_open_files(
            self.captured.found, copies, tuple(skip), self.file_limit_bytes)
        point("save.copied")


def _copied(folder: Path) -> object:
    """Return a measure of what was copied so far."""
    try:
        return sorted((entry.name, entry.stat().st_size) for entry in os.scandir(folder))
    except OSError:
        return None


def _disk_error(error: OSError) -> DumpFailed:
    if error.errno in NO_SPACE:
        return OutOfSpace("The disk of the checkpoint store is full.",
                          "Free space, remove checkpoints, or choose another store.")
    return DumpFailed(f"Copying the session's files failed: {error}.")
