"""Restoring: everything that can fail is tried before anything is stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..box import Box, OpenBox
from ..box.namespaces import EMPTY_DEADLINE_S
from ..engine.criu import Criu
from ..engine.criulog import CHANGED_SIZE
from ..engine.edit import accept_present, move_folder
from ..engine.openfiles import process_tree
from ..engine.sockets import InetSockets, close_outer_connections, inet_sockets, map_ports
from ..errors import CheckpointError, RestoreFailed, RestoreRefused
from ..faults import point
from ..manifest import Manifest, utc_now
from ..procfs import ProcessId, command_name
from ..protocol import PORT_NAMES, Job
from ..record import Record, next_epoch, write_private
from ..store import Store
from . import exchange
from .frozen import refill_shared_memory
from .kernel import Kernel, identify
from .launch import make_box
from .ports import checked_wait, choose_ports
from .preparing import Preparation, Prepared
from .recordfile import RecordFile
from .reservation import Reservation
from .savedfiles import present_states
from .socketnames import make_room
from .tools import Tools

log = logging.getLogger(__name__)
RESTORE_HEADROOM = 200
SIZE_ATTEMPTS = 3
PIDS_DEADLINE_S = 20.0
HOOK_DEADLINE_S = 30.0
SLOWEST_COPY_BYTES_PER_S = 5_000_000


class Restore:
    """Brings one checkpoint back as the kernel whose record `record_file` is.

    ``request``: files (policy), connection (ports and key to take over, or
    None), connection_file, wait_s (None: the usual time; 0: no waiting), shared
    (whether the original may live on), notebook, session, owner, epoch, schedule
    (without one: that of the checkpoint).
    """

    def __init__(
        self, tools: Tools, record_file: RecordFile, request: dict[str, Any], job: Job
    ) -> None:
        self.tools, self.request, self.job = tools, request, job
        self.record_file, self.folder = record_file, record_file.folder
        self.wait_s = checked_wait(request.get("wait_s"))
        self._preparation = Preparation(tools, request, job)

    def prepare(
        self, store: Store, manifest: Manifest, work: Path, replaced: Kernel | None = None
    ) -> Prepared:
        """Compare with this machine, verify and unpack; `replaced` will be ended for it.

        Raises `RestoreRefused` with all reasons, or `IntegrityError`; nothing was touched.
        """
        return self._preparation.prepare(store, manifest, work, replaced)

    def run(self, prepared: Prepared, recover: str | None = None,
            asked_by: str | None = None) -> Kernel:
        """Bring the prepared checkpoint to life.

        `recover` is the checkpoint, in the same store, that the next agent
        restores should we die before the record tells of the kernel made, for the
        request `asked_by`. Raises
        `RestoreFailed` or `RestoreRefused`; then nothing of it runs and every
        file is what it was before.
        """
        with Reservation() as reserved:
            return self._run(prepared, recover, asked_by, reserved)

    def _run(self, prepared: Prepared, recover: str | None, asked_by: str | None,
             reserved: Reservation) -> Kernel:
        self.job.enter("restoring")  # not given up any more, however long it waits for ports
        exchange.undo(self.folder)  # or it would not be known whose files are there
        # Once more: the kernel that was just stopped may have written since.
        prepared.plan = self._preparation.plan(prepared.manifest, prepared.folder)
        sockets = inet_sockets(prepared.images)
        moves = self._ports(prepared, sockets, reserved)
        if prepared.details["mode"] == "caps":
            self._wait_for_pids(prepared)
        self._recreate_folders(prepared)
        (self.folder / "kernel.log").touch(mode=0o600)  # the tree appends to it
        record = self._record(prepared, recover)
        record.replaced_by = asked_by if recover else None
        box = self._make_box(prepared)
        try:
            # Known before it holds a kernel: should we die now, the next agent ends it.
            record.init, record.agent = box.init, ProcessId.of(os.getpid())
            self.record_file.write(record)
            point("restore.boxed")
            exchange.put_back(prepared.plan, prepared.folder, self.folder, record.epoch)
            point("restore.files-back")
            if box.init is not None:
                refill_shared_memory(box.path("/dev/shm"), prepared.folder)
            self._edit(prepared, moves)
            prepared.warnings += make_room(prepared.images, box, self._private(prepared),
                                           self.folder.name[:8])
            point("restore.edited")
            work = prepared.folder / "criu"
            work.mkdir()
            criu = self.tools.criu(box, prepared.details["mode"], work)
            self._restore_images(criu, box, prepared)
            reserved.close()  # the tree has them
            point("restore.running")
            if isinstance(box, OpenBox):
                box.adopt_root(prepared.details["root_pid"])
            identify(box, record, prepared.details["root_pid"], prepared.details["kernel_pid"])
            kernel = Kernel(record, box, self.folder)
            self._fix_up(kernel, prepared, moves)
        except BaseException as error:
            problems = self._undo(prepared, box, recover, error)
            if isinstance(error, CheckpointError):
                error.message = " ".join([error.message, *problems])
            if isinstance(error, (CheckpointError, KeyboardInterrupt)):
                raise
            raise RestoreFailed(
                " ".join([f"The restore failed unexpectedly ({error}).", *problems]),
                "The agent.log in the kernel's runtime folder tells more.") from error
        prepared.warnings += prepared.plan.warnings
        return kernel

    def _undo(
        self, prepared: Prepared, box: Box, recover: str | None, error: BaseException
    ) -> list[str]:
        """Leave nothing of a restore that failed; return what is amiss with the user's files.

        What one step meets keeps no other back.
        """
        problems: list[str] = []
        steps: list[Callable[[], object]] = [
            lambda: self._keep_log(prepared, error), box.stop,
            lambda: problems.extend(self._undo_files()),
            # Room for the state that may be brought back instead.
            lambda: shutil.rmtree(prepared.folder, ignore_errors=True)]
        if recover is None:
            steps.append(self.record_file.remove)
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("undoing the restore stumbled")
        return problems

    def _undo_files(self) -> list[str]:
        """Bring the user's files back; return what is amiss. Another agent has done it already
        if it has our place."""
        return exchange.undo(self.folder) if self.record_file.has_place() else []

    # -- steps ----------------------------------------------------------------

    def _tell(self, text: str) -> None:
        self.job.phase = text

    def _ports(
        self, prepared: Prepared, sockets: InetSockets, reserved: Reservation
    ) -> dict[int, int]:
        """Choose and reserve the ports: {saved: to use}, the kernel's own five included."""
        saved = prepared.details.get("connection") or {}
        forced = self._preparation.forced_ports(prepared.details)
        kernel_ports = [int(saved[n]) for n in PORT_NAMES if n in saved]

        moves = choose_ports(
            sockets, forced, kernel_ports, self._tell, reserved, self.wait_s)
        internal = {*kernel_ports, *prepared.details.get("internal_ports", ())}
        for old, new in moves.items():
            if old not in internal and any(li.port == old for li in sockets.listeners):
                prepared.warnings.append(
                    f"Port {old} of the session is taken; what listened there now has port {new}.")
        lost = [c for c in sockets.inner if not internal & {c.source[1], c.target[1]}]
        if lost and prepared.details["mode"] != "root":
            prepared.warnings.append(
                f"{len(lost) // 2} network connection(s) between the session's own processes "
                f"came back closed: {prepared.details['mode']} mode cannot bring them back.")
        return moves

    def _wait_for_pids(self, prepared: Prepared) -> None:
        """Wait until the tree's pids are free: there is no namespace to have them in.

        A killed process keeps its pid until its parent has taken notice.
        """
        wanted = process_tree(prepared.images).all_ids
        deadline = time.monotonic() + PIDS_DEADLINE_S
        while taken := sorted(pid for pid in wanted if os.path.exists(f"/proc/{pid}")):
            if time.monotonic() > deadline:
                raise RestoreRefused(
                    f"Process id {taken[0]} of the session is taken by another process "
                    f"({command_name(taken[0])}).",
                    "Wait until that process has ended, or restore after a reboot.")
            self.job.phase = f"waiting for process id {taken[0]} to be free"
            time.sleep(0.05)

    def _recreate_folders(self, prepared: Prepared) -> None:
        for path, mode in prepared.details["working_folders"].items():
            if not os.path.isdir(path):
                os.makedirs(path, exist_ok=True)
                os.chmod(path, mode)  # CRIU compares it
                prepared.warnings.append(f"The folder {path} was missing and was made anew, empty.")

    def _make_box(self, prepared: Prepared) -> Box:
        details = prepared.details
        mode = details["mode"]
        return make_box(self.tools, self.record_file, mode,
                        alias=details["inner_runtime"] if mode == "caps" else None,
                        pid_floor=details["highest_pid"] + RESTORE_HEADROOM,
                        empty_deadline_s=_empty_deadline_s(prepared))

    def _private(self, prepared: Prepared) -> list[str]:
        """Return the folders in which the session meets nobody else."""
        own = [str(prepared.details["inner_runtime"]), str(self.folder)]
        return own if prepared.details["mode"] == "caps" else [*own, "/dev/shm"]

    def _edit(self, prepared: Prepared, moves: dict[int, int]) -> None:
        images, details = prepared.images, prepared.details
        close_outer_connections(images, keep_inner=details["mode"] == "root")
        map_ports(images, moves)
        move_folder(images, details["runtime"], str(self.folder))

    def _restore_images(self, criu: Criu, box: Box, prepared: Prepared) -> None:
        """Run CRIU; again when a file that others write to grew just before it looked."""
        for left in reversed(range(SIZE_ATTEMPTS)):
            states = present_states(prepared.manifest.files, prepared.plan)
            accept_present(prepared.images, states)
            try:
                return criu.restore(prepared.images, box.command, tell=self._tell)
            except RestoreFailed as error:
                if not left or CHANGED_SIZE not in error.message:
                    raise

    def _keep_log(self, prepared: Prepared, error: BaseException) -> None:
        """Keep CRIU's log of a failed restore where people find it.

        Not in the runtime folder, which goes when no kernel comes to live there.
        """
        log = prepared.images / "restore.log"
        if log.exists():
            kept = self.folder.parent / f"{self.folder.name}.restore.log"
            if isinstance(error, CheckpointError):
                error.log = ""  # should it not be kept, it is gone
            write_private(kept, log.read_bytes())
            if isinstance(error, CheckpointError):
                error.hint = error.hint.replace(str(log), str(kept))
                error.log = str(kept)

    def _record(self, prepared: Prepared, recover: str | None) -> Record:
        details, manifest, request = prepared.details, prepared.manifest, self.request
        return Record(
            kernel_id=self.folder.name, kernel_name=manifest.kernel.get("name", "python3"),
            language=manifest.kernel.get("language", "python"), mode=details["mode"],
            epoch=next_epoch(self.folder.parent, max(int(request.get("epoch") or 0),
                                                     int(details.get("epoch") or 0))),
            cwd=details["cwd"], connection_file=str(request.get("connection_file") or ""),
            owner=request.get("owner"), session=request.get("session"),
            notebook=request.get("notebook"), parent=manifest.id,
            recover=recover, recover_store=str(self.tools.store_dir) if recover else None,
            injected=details["injected"], link_seen=_was_heard(details), env=details["env"],
            schedule=prepared.schedule)

    def _fix_up(self, kernel: Kernel, prepared: Prepared, moves: dict[int, int]) -> None:
        """Tell the kernel who it is now and write its connection file."""
        connection = self._connection(prepared, moves)
        path = kernel.record.connection_file
        if connection is not None:
            write_private(Path(path), json.dumps(connection, indent=1).encode())
        answer = kernel.link.ask(
            "restored", HOOK_DEADLINE_S + 5, checkpoint=prepared.manifest.to_dict(),
            kernel_id=kernel.record.kernel_id, epoch=kernel.record.epoch, connection=connection,
            port_map={str(old): new for old, new in moves.items()}, connection_file=path,
            deadline_s=HOOK_DEADLINE_S,
            warnings=prepared.warnings, runtime=kernel.box.inner_runtime,
            restored_at=utc_now())
        if answer is not None:
            prepared.warnings += answer.get("warnings", ())
        elif kernel.record.link_seen:
            prepared.warnings.append(
                "The restored kernel has not answered yet (its interpreter is held by native "
                "code): on_restore hooks have not run.")

    def _connection(self, prepared: Prepared, moves: dict[int, int]) -> dict[str, Any] | None:
        saved = prepared.details.get("connection")
        if saved is None:
            return None
        found = dict(saved)
        for name in PORT_NAMES:
            if name in found:
                found[name] = moves.get(int(found[name]), int(found[name]))
        wanted = self.request.get("connection") or {}
        # A process that nobody can tell of another key keeps the one it has.
        if _was_heard(prepared.details) and wanted.get("key"):
            found["key"] = wanted["key"]
        return found


def _empty_deadline_s(prepared: Prepared) -> int:
    """Return how long the box may stay empty: files and shared memory are copied first."""
    folders = [prepared.folder / name for name in ("files", "shm")]
    size = sum(each.stat().st_size for folder in folders if folder.is_dir()
               for each in folder.iterdir())
    return EMPTY_DEADLINE_S + size // SLOWEST_COPY_BYTES_PER_S


def _was_heard(details: dict[str, Any]) -> bool:
    """Tell whether the session's in-kernel part was ever heard; older checkpoints only
    tell whether it was given one.
    """
    return bool(details.get("link_seen", details["injected"]))


