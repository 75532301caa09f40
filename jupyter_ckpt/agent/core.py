"""The agent itself: which kernel it has, and what it does when asked."""

from __future__ import annotations

import logging
import os
import select
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..box.contract import identities, kill_and_wait
from ..box.hangup import reset_on_end
from ..errors import (
    CheckpointError,
    KernelNotFound,
    ProtocolError,
    RecordCorrupt,
    RestoreFailed,
    UsageError,
)
from ..manifest import Manifest
from ..procfs import ProcessId, descendants
from ..protocol import API_VERSION, Job
from ..record import RECORD_NAME, Record, read_record, write_record
from .activity import Mark
from .kernel import Kernel
from .launch import launch
from .restore import Prepared, Restore
from .save import Save
from .tools import Tools

log = logging.getLogger(__name__)
LINK_TIMEOUT_S = 3.0
SAFETY_NOTE = "The session as it was before it was restored to {0}."


class Agent:
    """One agent, at most one kernel. Every method may be called by any thread."""

    def __init__(self, tools: Tools, folder: Path, on_end: Callable[[], None]) -> None:
        self.tools, self.folder = tools, folder
        self.kernel: Kernel | None = None
        self.acting = ""
        self.unfinished: Record | None = None
        """The record of a kernel that has to be brought back first (`recover`)."""
        self.news: Callable[[], None] = lambda: None
        """Called when there is another kernel or another checkpoint of it."""
        self._on_end = on_end
        self._lock = threading.RLock()
        self._attach()

    def _attach(self) -> None:
        try:
            record = read_record(self.folder)
        except KernelNotFound:
            return
        except RecordCorrupt as error:
            log.error("%s", error.message)
            return
        try:
            self._adopt(Kernel.attach(record, self.tools.box_binary, self.folder))
            return
        except CheckpointError as error:
            log.warning("the recorded kernel cannot be taken over: %s", error.message)
        if record.init is not None and record.init.is_alive():
            log.warning("its box is ended: whoever was filling it has died")
            kill_and_wait(identities(record.init.pid))
        if record.recover is None:
            (self.folder / RECORD_NAME).unlink(missing_ok=True)
        else:
            self.unfinished = record

    def recover(self, job: Job) -> dict[str, Any]:
        """Restore what an agent that died had stopped in order to replace it."""
        record, self.unfinished = self.unfinished, None
        assert record is not None
        request: dict[str, Any] = {"checkpoint": record.recover, "files": "put-back",
                                   "recover": record.recover}
        self._inherit(request, record)
        try:
            return self.restore(request, job)
        except CheckpointError:
            # Not tried for ever: the checkpoint stays, and the caller is told.
            (self.folder / RECORD_NAME).unlink(missing_ok=True)
            raise

    def _adopt(self, kernel: Kernel) -> None:
        """Make `kernel` this agent's: write the record, watch for its end."""
        with self._lock:
            self.kernel = kernel
            kernel.record.agent = ProcessId.of(os.getpid())
            write_record(self.folder, kernel.record)
        threading.Thread(target=self._watch, args=(kernel,), name="watch", daemon=True).start()
        self.news()

    def _watch(self, kernel: Kernel) -> None:
        assert kernel.record.kernel is not None
        try:
            handle = os.pidfd_open(kernel.record.kernel.pid)
        except ProcessLookupError:
            handle = -1
        if handle >= 0:
            select.select([handle], [], [])
            os.close(handle)
        with self._lock:
            if self.kernel is not kernel:
                return  # stopped on purpose; another took its place
            log.info("the kernel has ended")
            self._bury(kernel)
        self._on_end()

    def _bury(self, kernel: Kernel) -> None:
        """Remove what is left of a kernel: its box, its record, its sockets."""
        self.kernel = None
        try:
            kernel.box.stop()
        except CheckpointError as error:
            log.error("%s", error.message)
        (self.folder / RECORD_NAME).unlink(missing_ok=True)
        if kernel.record.owner is None and kernel.record.connection_file:
            Path(kernel.record.connection_file).unlink(missing_ok=True)

    def clear_folder(self) -> None:
        """Remove the runtime folder of an agent that has no kernel any more."""
        if self.kernel is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def need_kernel(self) -> Kernel:
        """Return the kernel; raise `KernelNotFound` when there is none (any more)."""
        if self.kernel is None:
            raise KernelNotFound(f"Kernel {self.folder.name} is not running.",
                                 "'jupyter ckpt list' shows what can be restored.")
        return self.kernel

    # -- jobs (each runs in the job table's thread) -----------------------------

    def _tools_for(self, request: dict[str, Any]) -> Tools:
        """Return the tools of one act: a request may name another store."""
        store = request.get("store")
        if store is None:
            return self.tools
        if not isinstance(store, str) or not os.path.isabs(store):
            raise UsageError("The store is named by an absolute path.")
        return replace(self.tools, store_dir=Path(store))

    def launch(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        if self.kernel is not None:
            raise UsageError(f"Kernel {self.folder.name} is running already.")
        self._adopt(launch(self.tools, self.folder, request, job))
        return self.need_kernel().record.to_dict()

    def save(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        kernel = self.need_kernel()
        self.acting = "frozen"
        error: CheckpointError | None = None
        manifest: Manifest | None = None
        try:
            save = Save(self._tools_for(request), kernel, request, job)
            manifest = save.run()
            kernel.mark, kernel.saved_at = save.mark, time.monotonic()
            kernel.record.parent = manifest.id
            write_record(self.folder, kernel.record)
            self.news()
            return manifest.to_dict()
        except CheckpointError as caught:
            error = caught
            raise
        finally:
            self.acting = ""
            kernel.link.ask(
                "finished", LINK_TIMEOUT_S, request_id=job.id,
                result=manifest.to_dict() if manifest else None,
                error=error.to_dict() if error else None)

    def restore(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """Restore a checkpoint here, in place of the kernel that runs, if one does.

        A running kernel is saved first, and comes back when the restore fails.
        """
        self.acting = "restoring"
        try:
            return self._restore(request, job)
        finally:
            self.acting = ""

    def _restore(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        tools = self._tools_for(request)
        store = tools.store()
        manifest = store.resolve(str(request.get("checkpoint", "")))
        request = {name: value for name, value in request.items() if name != "schedule"}
        old = self.kernel
        if old is not None:
            self._inherit(request, old.record)
        restore = Restore(tools, self.folder, request, job)
        safety: Manifest | None = None
        with tools.work_folder(job.id) as work:
            prepared = restore.prepare(store, manifest, work)
            if old is not None:
                note = SAFETY_NOTE.format(manifest.name or manifest.id)
                safety = Save(tools, old, {"trigger": "api", "note": note}, job).run()
                job.enter("verifying")
                store.check(safety)
                # The point of no return for the old process: all that could be
                # refused was, and its state is stored and was read back. Should
                # we die from here on, the next agent brings that state back.
                request["recover"] = old.record.recover = safety.id
                write_record(self.folder, old.record)
                self._stop(old)
            try:
                kernel = restore.run(prepared)
            except CheckpointError as error:
                if safety is not None:
                    self._bring_back(tools, safety, old, job, error)
                raise
        self._adopt_restored(kernel)
        return self._result(kernel, prepared, safety)

    def _adopt_restored(self, kernel: Kernel) -> None:
        kernel.mark = Mark.of(kernel.record.root, kernel.link.ask("status", LINK_TIMEOUT_S))
        kernel.saved_at = time.monotonic()
        kernel.record.recover = None
        self._adopt(kernel)

    def _inherit(self, request: dict[str, Any], record: Record) -> None:
        for name in ("owner", "session", "notebook", "connection_file"):
            if request.get(name) is None:
                request[name] = getattr(record, name)
        request["schedule"] = record.schedule.to_dict() if record.schedule else None
        request["epoch"] = max(int(request.get("epoch") or 0), record.epoch)

    def _stop(self, kernel: Kernel) -> None:
        with self._lock:
            self.kernel = None  # its end is no news to the watch
        # Or the restore on the same ports would wait a minute for TIME_WAIT.
        reset_on_end(descendants(kernel.record.root.pid) if kernel.record.root else ())
        kernel.box.stop()

    def _bring_back(
        self, tools: Tools, safety: Manifest, old: Kernel | None, job: Job,
        error: CheckpointError,
    ) -> None:
        """Restore the state saved just before a restore that failed; then raise."""
        assert old is not None
        request: dict[str, Any] = {"files": "put-back", "recover": safety.id}
        self._inherit(request, old.record)
        with tools.work_folder(job.id) as work:
            store = tools.store()
            again = Restore(tools, self.folder, request, job)
            kernel = again.run(again.prepare(store, safety, work))
        self._adopt_restored(kernel)
        raise RestoreFailed(
            f"{error.message} The session is again as it was before the attempt.",
            error.hint, error.log) from error

    def _result(
        self, kernel: Kernel, prepared: Prepared, safety: Manifest | None
    ) -> dict[str, Any]:
        record = kernel.record
        assert record.kernel is not None
        return {
            "kernel_id": record.kernel_id, "connection_file": record.connection_file,
            "pid": record.kernel.pid, "notebook": record.notebook, "epoch": record.epoch,
            "warnings": prepared.warnings, "checkpoint": prepared.manifest.id,
            "saved_before": safety.id if safety else None,
            "busy": prepared.manifest.kernel.get("busy"),
        }

    # -- questions and small acts ------------------------------------------------

    def status(self, jobs: list[Job]) -> dict[str, Any]:
        kernel = self.kernel
        processes = kernel.processes() if kernel is not None else []
        return {
            "api": API_VERSION, "kernel_id": self.folder.name,
            "record": kernel.record.to_dict() if kernel is not None else None,
            "state": self.acting or ("running" if kernel is not None else "empty"),
            "processes": processes, "memory_bytes": sum(p["rss_bytes"] for p in processes),
            "jobs": [job.to_dict() for job in jobs],
            "injected": kernel.record.injected if kernel is not None else False,
        }

    def running(self) -> dict[str, Any]:
        """Return the running cell with its outputs; nulls when nobody can tell."""
        answer = self.need_kernel().link.ask("running", LINK_TIMEOUT_S)
        return answer or {"busy": None, "running": None, "recent": []}

    def listing(self) -> list[dict[str, Any]]:
        """Return the manifests of this kernel and its notebook, newest first."""
        record = self.need_kernel().record
        return [
            m.to_dict() for m in self.tools.store().manifests()
            if m.kernel.get("id") == record.kernel_id
            or (m.notebook is not None and m.notebook.get("path") == record.notebook)]

    def note_session(self, body: dict[str, Any]) -> None:
        """Note the session, notebook and owner a coordinator tells; null clears."""
        record = self.need_kernel().record
        for name, kinds in (("session", (dict, type(None))), ("notebook", (str, type(None))),
                            ("owner", (dict, type(None)))):
            if name in body:
                if not isinstance(body[name], kinds):
                    raise ProtocolError(f"'{name}' has the wrong type.")
                setattr(record, name, body[name])
        write_record(self.folder, record)

    def interrupt(self) -> None:
        self.need_kernel().interrupt()

    def signal(self, number: int) -> None:
        if not 1 <= number <= 64:
            raise ProtocolError(f"{number} is not a signal.")
        self.need_kernel().signal(number)

    def dismiss(self) -> None:
        """End this agent if it has no kernel; a kernel's agent stays."""
        if self.kernel is not None:
            raise UsageError(f"Kernel {self.folder.name} is running and needs its agent.")
        self._on_end()

    def shutdown(self) -> None:
        """End the kernel with its whole box, and then this agent."""
        with self._lock:
            kernel = self.need_kernel()
            self._bury(kernel)
        self._on_end()
