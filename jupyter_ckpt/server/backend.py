"""The one door from Jupyter to agents and store.

Everything here blocks and belongs into a worker thread; `Backend.run` puts it
there. The provisioner and the server share one `Backend` per process, as they
share jupyter_client's provisioner factory: see `current` and `use`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .. import agent_place, kernels, offers, parking, stale
from ..client import AgentClient
from ..configuration import Configuration
from ..doctor import doctor
from ..engine.criu_find import find_criu
from ..errors import (
    AgentUnreachable,
    CheckpointError,
    JobNotFound,
    ModeUnavailable,
    NotFound,
    RestoreRefused,
    UsageError,
)
from ..locations import Locations
from ..manifest import Manifest
from ..offers import Offer
from ..plan import Schedule
from ..privileges import decide_mode
from ..protocol import Job, checkpoint_id
from ..record import Record, all_records, read_record, record_folder, write_record
from ..store import Store
from .ending import wait_for_end
from .events import Emitter, Silence
from .owner import released
from .threads import DaemonThreads

log = logging.getLogger(__name__)
T = TypeVar("T")
OnProgress = Callable[[Job], None]
WORKERS = 32
JOB_KIND = "checkpoints"
ASKED_SLACK_S = 1.0
NOT_REVIVED = "saved and ended, but it could not be brought back"
"""How a parked session ended whose revival failed, in an offer."""


class Backend:
    """Kernels, agents and store of one user, as the server needs them.

    ``owner`` is what this server writes into the records of the kernels it
    shows; None outside of a server.
    """

    def __init__(self, locations: Locations) -> None:
        self.locations = locations
        self.owner: dict[str, Any] | None = None
        self.schedule: Schedule | None = None
        """What new kernels are started with; None: they are saved by hand."""
        self.events: Emitter = Silence()
        """Who is told what happens to sessions by itself."""
        self.session_of: Callable[[str], tuple[dict[str, Any] | None, str | None]] = (
            lambda kernel_id: (None, None))
        """Tells what session and notebook a kernel belongs to that is started again."""
        self.on_crash = "offer"
        """What becomes of a session whose kernel crashed: it is offered, or restored."""
        self.on_kernel: Callable[[], None] = lambda: None
        """Called, by any thread, when there is a kernel that was not there before."""
        self._workers = DaemonThreads(WORKERS, "ckpt")

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a blocking function in a worker thread and return its result."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: function(*args, **kwargs))

    # -- records ----------------------------------------------------------------
    def folder(self, kernel_id: str) -> Path:
        return record_folder(self.locations.runtime_dir, kernel_id)

    def record(self, kernel_id: str) -> Record:
        """Return the record of exactly this kernel; raise `KernelNotFound`."""
        return read_record(self.folder(kernel_id))

    def records(self) -> tuple[list[Record], list[str]]:
        return all_records(self.locations.runtime_dir)

    def client(self, record: Record) -> AgentClient:
        """Return a client of the kernel's agent without starting one."""
        return AgentClient(self.folder(record.kernel_id))

    def note_session(
        self, record: Record, session: dict[str, Any] | None, notebook: str | None
    ) -> None:
        """Write into the record which session shows the kernel, and that it is ours."""
        self._note(record, session=session, notebook=notebook, owner=self.owner)

    def release(self, record: Record) -> None:
        """Write into the record that this server shows the kernel no more.

        The next server of the same folder may show it at once, also while this
        process still runs. Raises `KernelNotFound` when the kernel has ended.
        """
        if self.owner is not None:
            self._note(record, owner=released(self.owner))

    def _note(self, record: Record, **fields: Any) -> None:
        """Change a record.

        The agent does it where one lives; otherwise the record is rewritten
        here, so that a claim never waits for an agent to start. Meanwhile we have
        the agent's place: one that starts reads the record afterwards.
        """
        client, folder = self.client(record), self.folder(record.kernel_id)

        def tell() -> None:
            client.note_session(**fields)

        try:
            return tell()
        except AgentUnreachable:
            if agent_place.help_or_end_hung(folder, client.answers):
                return tell()
        place = agent_place.take(folder, client.answers)
        if place is None:
            return tell()  # one has just come up
        try:
            write_record(folder, replace(self.record(record.kernel_id), **fields))
        finally:
            place.leave()

    def running(self, record: Record) -> dict[str, Any]:
        """Return what runs in the kernel now: {busy, running, recent}."""
        return kernels.live_agent(self.locations, record).running()

    # -- kernels ----------------------------------------------------------------
    def list_kernels(self) -> list[dict[str, Any]]:
        return kernels.list_kernels(self.locations)

    def launch(self, **arguments: Any) -> Record:
        record = kernels.launch(self.locations, owner=self.owner, schedule=self.schedule,
                                **arguments)
        self.on_kernel()
        return record

    def require_process_checkpoints(self) -> None:
        """Raise the `NotPossibleHere` that says why no process can be saved here."""
        mode = decide_mode(find_criu())
        if mode.name == "none":
            raise ModeUnavailable(f"Process checkpoints are not possible here: {mode.why}",
                                  "'jupyter ckpt doctor' tells what to do.")

    def stop(self, record: Record) -> None:
        """End kernel, box and agent; return when they are gone.

        A kernel that has ended by itself takes its agent along, so nobody is
        asked then: asking would start a new agent, just to end it.
        """
        if record.is_alive():
            try:
                self.client(record).shutdown()
            except NotFound:
                pass  # it ended in between
            except AgentUnreachable:
                kernels.stop(self.locations, record)
        wait_for_end(self.locations, record, self.client(record))

    def save(self, record: Record, **arguments: Any) -> Manifest:
        return kernels.save(self.locations, record, **arguments)

    def finish_unfinished(self) -> None:
        """Bring back kernels whose agent died while it was replacing them; waits for a while."""
        kernels.finish_unfinished(self.locations)

    def restore(self, manifest: Manifest, **arguments: Any) -> dict[str, Any]:
        restored = kernels.restore(self.locations, manifest, owner=self.owner, **arguments)
        self.on_kernel()
        return restored

    def revive(self, manifest: Manifest, *, parked: bool, **arguments: Any) -> dict[str, Any]:
        """Restore a checkpoint as a kernel that was to be started fresh.

        With `parked` its mark is gone afterwards, however it ended: a restore
        that failed is not tried for ever behind the user's back. The checkpoint
        is offered then, so that it stays, and the error says how to come by it.
        """
        if not parked:
            return self.restore(manifest, in_place=False, **arguments)
        with parking.claimed(self.locations, manifest.id) as ours:
            if not ours:
                raise RestoreRefused(
                    f"Another server is bringing checkpoint {manifest.id} back.",
                    "Open the notebook there.")
            try:
                found = self.restore(manifest, in_place=False, **arguments)
            except BaseException as error:
                self._offer_parked(manifest, error)
                raise
            self._unpark(manifest)
            return found

    def _offer_parked(self, manifest: Manifest, error: BaseException) -> None:
        """Turn the promise that opening the notebook brings a session back into an offer."""
        try:
            offers.offer_again(self.locations.runtime_dir, manifest, NOT_REVIVED)
        except (CheckpointError, OSError) as problem:
            log.error("Checkpoint %s stays parked, for it cannot be offered: %s",
                      manifest.id, problem)
            return  # without mark and offer it would be tidied away
        self._unpark(manifest)
        if isinstance(error, CheckpointError):
            error.hint = (f"{error.hint} The saved session is kept: "
                          f"'jupyter ckpt restore {manifest.id}' tries again.").strip()

    def _unpark(self, manifest: Manifest) -> None:
        try:
            self.unmark_parked(manifest.id)
        except CheckpointError as error:  # no reason to lose the session for it
            log.error("Checkpoint %s stays marked as parked: %s", manifest.id, error)

    def sweep(self) -> None:
        """Turn what is left of sessions without kernel and agent into offers."""
        stale.sweep(self.locations)

    def offers(self) -> list[Offer]:
        return offers.all_offers(self.locations.runtime_dir)

    def offer(self, kernel_id: str) -> Offer | None:
        return offers.find_offer(self.locations.runtime_dir, kernel_id)

    def dismiss_offer(self, kernel_id: str, since: str = "") -> bool:
        """Remove an offer, if its session ended after `since`; tell whether there was one.

        Or within `ASKED_SLACK_S` before it: who asks a kernel to end has its word
        sent before the moment is noted, and some crash at once.
        """
        found = self.offer(kernel_id)
        if (found is not None and since
                and offers.seconds_of(found.ended_at) < offers.seconds_of(since) - ASKED_SLACK_S):
            return False
        return offers.dismiss(self.locations.runtime_dir, kernel_id)

    def crash_restorable(self, offer: Offer) -> Manifest | None:
        """Return what to restore by itself after a crash; None: there is nothing.

        From now on it counts as tried. Raises `RestoreRefused` when it was tried
        before, or when too much was; other kinds of `CheckpointError` when the
        checkpoint cannot be read.
        """
        if offer.checkpoint is None:
            return None
        manifest = self.store().resolve(offer.checkpoint)
        why_not = offers.attempt(self.locations.runtime_dir, offer.kernel_id, manifest.id)
        if why_not is not None:
            raise RestoreRefused(f"It starts fresh: {why_not}.",
                                 "The offer stands: restore it in JupyterLab, or with "
                                 f"'jupyter ckpt restore {manifest.id}'.")
        return manifest

    def parked_checkpoint(self, notebook: str, kernel_name: str) -> Manifest | None:
        return parking.parked_checkpoint(self.locations, notebook, kernel_name)

    def secure(self, record: Record, **arguments: Any) -> Manifest | None:
        return parking.secure(self.locations, record, **arguments)

    def mark_parked(self, checkpoint_id: str) -> Manifest:
        return parking.mark(self.locations, checkpoint_id)

    def unmark_parked(self, checkpoint_id: str | None) -> None:
        parking.unmark(self.locations, checkpoint_id)

    def schedule_of(
        self, record: Record, changes: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return when a kernel is saved by itself, after `changes` if there are any."""
        return kernels.schedule(self.locations, record, changes)

    def fork(self, record: Record, copies: int, on_progress: OnProgress) -> list[dict[str, Any]]:
        forks = kernels.fork(self.locations, record, copies, on_progress)
        self.on_kernel()
        return forks

    def find_job(self, job_id: str) -> tuple[Job, str]:
        """Return a save this server has forgotten, and its kernel id.

        A living agent knows it, or the store holds what it made. Raises
        `JobNotFound` when neither does.
        """
        for record in self.records()[0]:
            try:
                return self.client(record).job(JOB_KIND, job_id), record.kernel_id
            except CheckpointError:
                continue
        for manifest in self.manifests():
            kernel_id = str(manifest.kernel.get("id"))
            if manifest.id == checkpoint_id(kernel_id, job_id):
                return Job(job_id, JOB_KIND, "done", result=manifest.to_dict()), kernel_id
        raise JobNotFound(f"No job {job_id} is known here.",
                          "What is not finished goes with its kernel; list the checkpoints.")

    def examine(self) -> dict[str, Any]:
        """Return what works here, as ``jupyter ckpt doctor --json`` prints it."""
        return doctor(store=self.locations.store_dir)

    # -- store ------------------------------------------------------------------
    def store(self) -> Store:
        return Store.open(self.locations.store_dir)

    def manifests(self) -> Iterator[Manifest]:
        return iter(self.store().manifests())


_current: Backend | None = None
_lock = threading.Lock()


def current() -> Backend:
    """Return the process's backend; without our extension one of the configured places."""
    global _current
    with _lock:
        if _current is None:
            try:
                configuration = Configuration.load()
            except UsageError as error:  # as Jupyter does: kernels start all the same
                log.error("%s", error.message)
                configuration = Configuration()
            configuration.tell_agents()
            _current = Backend(Locations.default(configuration.store))
        return _current


def use(backend: Backend) -> None:
    """Make `backend` the one every provisioner of this process uses."""
    global _current
    with _lock:
        _current = backend
