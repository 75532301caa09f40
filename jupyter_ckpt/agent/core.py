"""The agent itself: which kernel it has, from the first moment to the last."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..box.contract import identities, kill_and_wait
from ..errors import (
    CheckpointError,
    KernelNotFound,
    ProtocolError,
    RecordCorrupt,
    UsageError,
)
from ..faults import point
from ..kernel_ports import keep
from ..locations import Locations
from ..offers import bury, how_ended, leave_offer
from ..procfs import ProcessId
from ..protocol import Job
from ..record import Record
from ..remains import end_remains
from ..stale import offer_gone
from . import exchange
from .ending import await_end, refuse_dying
from .kernel import Kernel
from .launch import launch
from .recordfile import RecordFile
from .tools import Tools

log = logging.getLogger(__name__)


class Agent:
    """One agent, at most one kernel. Every method may be called by any thread."""

    def __init__(self, tools: Tools, folder: Path, on_end: Callable[[], None],
                 has_place: Callable[[], bool] = lambda: True) -> None:
        self.tools, self.folder = tools, folder
        self.record_file = RecordFile(folder, has_place, on_end)
        self.kernel: Kernel | None = None
        self.acting = ""
        """What is being done with the kernel; "" when nothing is."""
        self.unfinished: Record | None = None
        """The record of a kernel that has to be brought back first (`replacing.recover`)."""
        self.news: Callable[[], None] = lambda: None
        """Called when there is another kernel or another checkpoint of it."""
        self.await_running: Callable[[], None] = lambda: None
        """Returns when the act that runs just now has ended, or does not get on."""
        self._kept_ports: object = None
        """What keeps other new kernels off the ports of the one that was started here."""
        self._on_end = on_end
        self._lock = threading.RLock()
        self._attach()

    def check_place(self) -> None:
        """Raise `AgentUnreachable`, and end, when another agent has taken this one's place."""
        self.record_file.check_place()

    def need_kernel(self) -> Kernel:
        """Return the kernel; raise `KernelNotFound` when there is none (any more)."""
        if self.kernel is None:
            raise KernelNotFound(f"Kernel {self.folder.name} is not running.",
                                 "'jupyter ckpt list' shows what can be restored.")
        return self.kernel

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Let ``GET /status`` say `what` meanwhile, and then again what it said before."""
        before, self.acting = self.acting, what
        try:
            yield
        finally:
            self.acting = before

    # -- coming to a kernel -------------------------------------------------------

    def _attach(self) -> None:
        """Take over the kernel the record tells of, or note that it has to be brought back."""
        try:
            record = self.record_file.read()
        except KernelNotFound:
            exchange.settle(self.folder, None)
            return
        except RecordCorrupt as error:
            log.error("%s", error.message)
            return
        # Whoever started this agent may know another store than the one before it had.
        self.tools = self.tools.storing_in(record.store)
        try:
            refuse_dying(record)
            kernel = Kernel.attach(record, self.tools.box_binary, self.folder)
            record.recover = record.replaced_by = None  # it was not stopped after all
        except CheckpointError as error:
            log.warning("the recorded kernel cannot be taken over: %s", error.message)
            self._clear(record)
            return
        exchange.forget(self.folder)
        try:
            self.take(kernel)
        except OSError as error:
            log.error("the record cannot be written: %s", error)  # it is ours all the same

    def _clear(self, record: Record) -> None:
        """End what is left of a recorded kernel that cannot be taken over, and offer it.

        Or note that it has to be brought back. The user's files are again what they were.
        """
        if record.kernel is not None and not record.is_alive():
            await_end(record)  # its dump root may be about to write how it ended
        try:
            if record.init is not None and record.init.is_alive():
                log.warning("its box is ended: whoever was filling or stopping it has died")
                kill_and_wait(identities(record.init))
            end_remains(self.folder)
        except CheckpointError as error:
            log.error("%s", error.message)
        exchange.settle(self.folder, record)
        if record.recover is not None:
            self.unfinished = record
            return
        try:
            offer_gone(self._locations(), record)
        except OSError as error:
            log.error("the session cannot be offered: %s", error)
        self.record_file.remove()

    def launch(self, request: dict[str, Any], job: Job) -> dict[str, Any]:
        """Start the kernel that `request` describes; return its record. Runs as a job."""
        if self.kernel is not None:
            raise UsageError(f"Kernel {self.folder.name} is running already.")
        kernel = launch(self.tools, self.record_file, request, job)
        self._kept_ports = keep(kernel.connection())
        kernel.record.origin = {"kind": job.kind, "request_id": job.id}
        try:
            self.take(kernel)
            point("launch.recorded")
        except Exception:
            with self._lock:
                self._bury(kernel)  # nobody would know of a kernel without its record
            raise
        return self.need_kernel().record.to_dict()

    def take(self, kernel: Kernel) -> None:
        """Make `kernel` this agent's: watch for its end, write the record.

        When that cannot be written, the kernel is ours all the same.
        """
        with self._lock:
            self.kernel = kernel
            kernel.record.agent = ProcessId.of(os.getpid())
            kernel.record.store = str(self.tools.store_dir)
            threading.Thread(
                target=self._watch, args=(kernel,), name="watch", daemon=True).start()
            self.record_file.write(kernel.record)
        self.news()

    # -- parting with it ----------------------------------------------------------

    def let_go(self, kernel: Kernel) -> bool:
        """Have `kernel` no longer: its end is no news then. Tell whether we had it."""
        with self._lock:
            if self.kernel is not kernel:
                return False
            self.kernel = None
            return True

    def shutdown(self) -> None:
        """End the kernel with its whole box, and then this agent."""
        with self._lock:
            self._bury(self.need_kernel())
        self._on_end()

    def dismiss(self) -> None:
        """End this agent if it has no kernel; a kernel's agent stays."""
        if self.kernel is not None:
            raise UsageError(f"Kernel {self.folder.name} is running and needs its agent.")
        self._on_end()

    def clear_folder(self) -> None:
        """Remove the runtime folder of an agent that has no kernel any more."""
        if self.kernel is None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _watch(self, kernel: Kernel) -> None:
        await_end(kernel.record)
        # What is being stored holds the kernel's last state: the offer is to name it.
        self.await_running()
        with self._lock:
            if self.kernel is not kernel or not self.record_file.has_place():
                return  # stopped on purpose, or another agent sees to it
            log.info("the kernel has ended: %s", how_ended(self.folder) or "with its box")
            self._offer(kernel.record)
            try:
                point("agent.burying")
                self._bury(kernel)
            except OSError as error:
                log.error("what is left of the kernel stays: %s", error)
            finally:
                self.kernel = None
                self._on_end()  # whatever failed: nobody needs this agent any more

    def _offer(self, record: Record) -> None:
        """Leave an offer if the kernel crashed."""
        try:
            bury(self._locations(), record)
        except OSError as error:
            log.error("the session cannot be offered: %s", error)

    def offer_lost(self, record: Record, checkpoint_id: str, store_dir: Path, how: str) -> None:
        """Offer a session that was stopped and could not be brought back, at this checkpoint."""
        try:
            leave_offer(replace(self._locations(), store_dir=store_dir),
                        replace(record, parent=checkpoint_id), how)
        except OSError as error:
            log.error("the session cannot be offered: %s", error)

    def _locations(self) -> Locations:
        tools = self.tools
        return Locations(tools.runtime_dir, tools.connection_dir, tools.store_dir)

    def _bury(self, kernel: Kernel) -> None:
        """Remove what is left of a kernel: its box, its record, its sockets."""
        self.check_place()
        self.kernel = None
        try:
            kernel.box.stop(kernel.record.kernel)
        except (CheckpointError, OSError) as error:
            log.error("the kernel's box: %s", error)
        self.record_file.remove()
        if kernel.record.owner is None and kernel.record.connection_file:
            Path(kernel.record.connection_file).unlink(missing_ok=True)

    # -- what its record says -----------------------------------------------------

    def note(self, kernel: Kernel, **fields: Any) -> bool:
        """Set fields of the record of `kernel`, and write it if that is (still) our kernel.

        Tells whether it is. Or the record of one that was replaced or has ended
        meanwhile would be written over that of its successor.
        """
        with self._lock:
            for name, value in fields.items():
                setattr(kernel.record, name, value)
            if self.kernel is not kernel:
                return False
            self.record_file.write(kernel.record)
            return True

    def remember(self, kernel: Kernel, **fields: Any) -> None:
        """`note` what was done: it stays done where the record cannot be written just now."""
        try:
            self.note(kernel, **fields)
        except OSError as error:
            log.error("the record cannot be written: %s", error)

    def note_session(self, body: dict[str, Any]) -> None:
        """Note the session, notebook and owner a coordinator tells; null clears."""
        kinds = {"session": dict, "notebook": str, "owner": dict}
        found = {name: body[name] for name in kinds if name in body}
        for name, value in found.items():
            if not isinstance(value, (kinds[name], type(None))):
                raise ProtocolError(f"'{name}' has the wrong type.")
        with self._lock:
            self.note(self.need_kernel(), **found)
