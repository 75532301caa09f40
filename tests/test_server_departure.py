"""A server ends: at once, and every kernel it lets go can be shown by the next."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_kernels import a_manifest, stored
from fault_plan import FaultPlan
from jupyter_harness import Home, StartServer, wait_until
from record_kit import GONE, KERNELS, backend_in, me
from tornado.web import HTTPError

from jupyter_ckpt import offers
from jupyter_ckpt.errors import DumpFailed
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.record import Record, read_record, write_record
from jupyter_ckpt.server import departure
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.departure import Departure
from jupyter_ckpt.server.events import Emitter, Silence
from jupyter_ckpt.server.fork_service import ForkService
from jupyter_ckpt.server.owner import is_orphan_of
from jupyter_ckpt.server.park_service import ParkService
from jupyter_ckpt.server.threads import DaemonThreads
from jupyter_ckpt.store import Store

pytest_plugins = ["jupyter_fixtures"]


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """A backend whose kernels have no in-kernel part to ask."""
    found = backend_in(tmp_path)
    monkeypatch.setattr(found, "running", lambda record: {"busy": None, "running": None})
    return found


def alive(backend: Backend, kernel_id: str) -> Record:
    """Leave the record of a kernel that lives (this process), shown by this server."""
    folder = backend.folder(kernel_id)
    folder.mkdir(mode=0o700, parents=True)
    record = Record(kernel_id, kernel=me(), owner=backend.owner)
    write_record(folder, record)
    return record


class FakeManager:
    """A kernel manager with kernels that live on, and one that vanishes when asked for."""

    def __init__(self, vanished: str) -> None:
        self.kernels = dict.fromkeys(KERNELS)
        self.vanished = vanished
        self.states = dict.fromkeys(KERNELS, ("idle", 0))

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.kernels

    def list_kernel_ids(self) -> list[str]:
        return list(self.kernels)

    def get_kernel(self, kernel_id: str) -> Any:
        ready = SimpleNamespace(done=lambda: True)
        state, at = self.states[kernel_id]
        return SimpleNamespace(stop_restarter=lambda: None, _close_control_socket=lambda: None,
                               ready=ready, execution_state=state, last_activity=at)

    def stop_watching_activity(self, kernel_id: str) -> None:
        if kernel_id == self.vanished:
            raise HTTPError(404, f"Kernel does not exist: {kernel_id}")

    stop_buffering = stop_watching_activity

    def remove_kernel(self, kernel_id: str) -> None:
        del self.kernels[kernel_id]


def test_kernel_that_has_vanished_costs_the_others_nothing(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {kernel_id: alive(backend, kernel_id) for kernel_id in KERNELS}
    monkeypatch.setattr(departure, "record_shown", lambda manager, each: records[each])
    manager = FakeManager(vanished=KERNELS[0])
    parks: Any = None
    asyncio.run(Departure(backend, parks, manager, logging.getLogger()).leave("leave-running", 1))
    assert manager.kernels == {}, "the server would end these"
    # They are the next server's at once, although this process goes on.
    left = [backend.record(kernel_id) for kernel_id in KERNELS[1:]]
    assert all(is_orphan_of(record, str(backend.locations.connection_dir)) for record in left)


def test_one_save_that_goes_wrong_keeps_no_other_kernel_running(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {kernel_id: alive(backend, kernel_id) for kernel_id in KERNELS}
    monkeypatch.setattr(departure, "record_shown", lambda manager, each: records[each])

    class Parks:
        async def secure(self, record: Record, trigger: str, deadline_s: float) -> Any:
            if record.kernel_id == KERNELS[1]:
                raise RuntimeError("nobody thought of that")

            async def mark(is_unused: Callable[[], Awaitable[bool]]) -> bool:
                return await is_unused()

            return SimpleNamespace(mark=mark)

    manager = FakeManager(vanished="")
    parks: Any = Parks()
    asyncio.run(Departure(backend, parks, manager, logging.getLogger()).leave("save-and-stop", 1))
    assert list(manager.kernels) == [KERNELS[0], KERNELS[2]], "the server ends these, saved"


def saved_by(backend: Backend, kernel_id: str) -> Manifest:
    notebook = backend.locations.connection_dir / f"{kernel_id}.ipynb"
    notebook.write_text("{}")
    return stored(Store.open(backend.locations.store_dir),
                  a_manifest(kernel_id, notebook={"path": str(notebook), "sha256": ""}))


def test_kernel_that_is_used_while_others_are_saved_is_left_running(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {kernel_id: alive(backend, kernel_id) for kernel_id in KERNELS}
    monkeypatch.setattr(departure, "record_shown", lambda manager, each: records[each])
    manager = FakeManager(vanished="")
    busy = KERNELS[2]
    manager.states[busy] = ("busy", 0)

    def secure(record: Record, **_: Any) -> Manifest:
        if record.kernel_id == KERNELS[0]:  # the slowest: meanwhile people go on
            manager.states.update({KERNELS[1]: ("idle", 1), busy: ("busy", 1)})
        return saved_by(backend, record.kernel_id)

    monkeypatch.setattr(backend, "secure", secure)
    parks = park_service(backend, Silence(), FakeSaves())
    asyncio.run(Departure(backend, parks, manager, logging.getLogger()).leave("save-and-stop", 1))
    # A cell that runs goes on from where it was saved, whatever it has printed since.
    assert list(manager.kernels) == [KERNELS[0], busy], "the server ends these"
    parked = {manifest.kernel["id"]: manifest.parked for manifest in backend.manifests()}
    assert parked == {KERNELS[0]: True, KERNELS[1]: False, busy: True}


def test_what_counts_as_use_are_cells_and_not_what_a_thread_prints(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {kernel_id: alive(backend, kernel_id) for kernel_id in KERNELS}
    monkeypatch.setattr(departure, "record_shown", lambda manager, each: records[each])
    manager = FakeManager(vanished="")
    cells = dict.fromkeys(KERNELS, 1)
    monkeypatch.setattr(backend, "running", lambda record: {
        "busy": False, "cells_run": cells[record.kernel_id]})

    def secure(record: Record, **_: Any) -> Manifest:
        manager.states[KERNELS[0]] = ("idle", 1)  # something is printed
        cells[KERNELS[1]] = 2
        return saved_by(backend, record.kernel_id)

    monkeypatch.setattr(backend, "secure", secure)
    parks = park_service(backend, Silence(), FakeSaves())
    asyncio.run(Departure(backend, parks, manager, logging.getLogger()).leave("save-and-stop", 1))
    assert list(manager.kernels) == [KERNELS[0], KERNELS[2]], "the server ends these"


def test_kernel_that_came_up_while_others_were_saved_was_not_used(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers now and did not before is compared by what is known of both moments."""
    records = {kernel_id: alive(backend, kernel_id) for kernel_id in KERNELS}
    monkeypatch.setattr(departure, "record_shown", lambda manager, each: records[each])
    manager = FakeManager(vanished="")
    manager.states = dict.fromkeys(KERNELS, ("starting", 0))
    never_used, slow, used = KERNELS
    said: dict[str, dict[str, Any]] = {each: {"busy": None, "cells_run": None} for each in KERNELS}
    monkeypatch.setattr(backend, "running", lambda record: said[record.kernel_id])

    def secure(record: Record, **_: Any) -> Manifest | None:
        if record.kernel_id != never_used:
            return saved_by(backend, record.kernel_id)
        said.update({never_used: {"busy": False, "cells_run": 0},
                     slow: {"busy": False, "cells_run": 3},
                     used: {"busy": False, "cells_run": 1}})
        manager.states.update({never_used: ("idle", 1), used: ("idle", 1)})
        return None

    monkeypatch.setattr(backend, "secure", secure)
    parks = park_service(backend, Silence(), FakeSaves())
    asyncio.run(Departure(backend, parks, manager, logging.getLogger()).leave("save-and-stop", 1))
    assert list(manager.kernels) == [never_used, slow], "the server ends these"


class FakeSaves:
    """A `SaveService` whose documents are files, or cannot be read for a reason of their own."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure

    async def document_of(self, record: Record) -> None:
        if self.failure is not None:
            raise self.failure


def park_service(backend: Backend, events: Emitter, saves: Any) -> ParkService:
    return ParkService(backend, events, saves, logging.getLogger())  # type: ignore


class Told:
    """Takes events, and keeps them."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None]] = []

    def emit(self, action: str, phase: str, **fields: Any) -> None:
        self.events.append((phase, fields.get("message")))


@pytest.mark.parametrize("used_at", ["before", "while it is marked"])
def test_kernel_that_is_used_before_it_is_ended_is_not_marked_and_not_ended(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, used_at: str
) -> None:
    told, used = Told(), used_at == "before"
    manifest = saved_by(backend, KERNELS[0])
    monkeypatch.setattr(backend, "secure", lambda record, **_: manifest)
    mark_parked = backend.mark_parked

    def marked_late(checkpoint_id: str) -> Manifest:
        nonlocal used
        used = True
        return mark_parked(checkpoint_id)

    monkeypatch.setattr(backend, "mark_parked", marked_late)

    async def is_unused() -> bool:
        return not used

    async def park() -> bool:
        parks = park_service(backend, told, FakeSaves())
        parking = await parks.secure(alive(backend, KERNELS[0]), "cull")
        assert parking is not None
        return await parking.mark(is_unused)

    assert not asyncio.run(park())
    assert [one.parked for one in backend.manifests()] == [False]
    assert told.events == [("started", None),
                           ("succeeded", "The session is in use again and goes on.")]


@pytest.mark.parametrize("failure", [HTTPError(503, "no such service"), OSError("no disk")])
def test_save_that_fails_in_any_way_is_told_and_the_kernel_not_ended(
    backend: Backend, failure: Exception
) -> None:
    told = Told()
    parks = park_service(backend, told, FakeSaves(failure))
    assert asyncio.run(parks.secure(alive(backend, KERNELS[0]), "cull")) is None
    assert [phase for phase, _ in told.events] == ["started", "failed"]
    assert "Saving failed" in str(told.events[-1][1])


def test_offer_is_made_from_the_record_on_disk_and_not_from_an_old_one(backend: Backend) -> None:
    store = Store.open(backend.locations.store_dir)
    first = stored(store, a_manifest(KERNELS[0]))
    last = stored(store, a_manifest(KERNELS[0], created_at="2026-01-02T00:00:00.000Z"))
    folder = backend.folder(KERNELS[0])
    folder.mkdir(mode=0o700, parents=True)
    old = Record(KERNELS[0], kernel=GONE, agent=GONE, parent=first.id)
    write_record(folder, Record(KERNELS[0], kernel=GONE, agent=GONE, parent=last.id,
                                notebook="/n/renamed.ipynb"))
    (folder / offers.ENDED_NAME).write_text("signal 9\n")
    backend.stop(old)
    [offer] = backend.offers()
    assert (offer.checkpoint, offer.notebook) == (last.id, "/n/renamed.ipynb")
    assert not folder.exists()


def test_end_waits_for_the_agent_that_the_record_on_disk_names(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = backend.folder(KERNELS[0])
    folder.mkdir(mode=0o700, parents=True)
    write_record(folder, Record(KERNELS[0], kernel=GONE, agent=me()))
    monkeypatch.setattr("jupyter_ckpt.server.ending.END_DEADLINE_S", 0.0)
    with pytest.raises(Exception, match="does not end"):
        backend.stop(Record(KERNELS[0], kernel=GONE, agent=GONE))
    assert read_record(folder).agent == me()


def test_fork_that_fails_in_any_way_is_told(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    alive(backend, KERNELS[0])

    def fork(*_: Any) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(backend, "fork", fork)
    forks = ForkService(backend, told, None, (), None, logging.getLogger())  # type: ignore
    with pytest.raises(DumpFailed, match="no disk"):
        asyncio.run(forks.fork(KERNELS[0], 1))
    assert [phase for phase, _ in told.events] == ["started", "failed"]


# -- the threads ---------------------------------------------------------------------------
def test_calls_are_made_in_few_threads_and_their_errors_told() -> None:
    threads = DaemonThreads(2, "some")
    go = threading.Event()
    held = [threads.submit(go.wait, 60) for _ in range(2)]
    queued: list[Any] = [threads.submit(lambda n=n: 1 / n) for n in (0, 1)]
    cancelled = threads.submit(go.clear)
    assert cancelled.cancel()
    go.set()
    assert [one.result(60) for one in held] == [True, True]
    assert isinstance(queued[0].exception(60), ZeroDivisionError)
    assert queued[1].result(60) == 1
    names = {threads.submit(lambda: threading.current_thread().name).result(60) for _ in range(9)}
    assert names <= {"some-1", "some-2"}
    assert go.is_set()


# -- real servers ----------------------------------------------------------------------------
def test_server_ends_while_a_save_goes_on_and_the_next_has_its_kernels_before(
    real_home: Home, start: StartServer, tmp_path: Path
) -> None:
    plan = FaultPlan(tmp_path / "plan")
    first = start(real_home, "--CheckpointApp.on_shutdown=leave-running", **plan.environment)
    kernel_id = first.open_session("a.ipynb")["kernel"]["id"]
    assert first.connect(kernel_id).run("x = 7; print(x)") == "7"
    saving = {"point": "save.begun", "act": "hang", "program": "kernel_agent"}
    released = {"point": "depart.released", "act": "hang", "program": "jupyter_server"}
    plan.arm(saving, released)
    first.ok("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints", {"name": "large"})
    wait_until(plan.fired, 60, "the save hangs")
    first.process.send_signal(signal.SIGTERM)
    wait_until(lambda: plan.fired(1), 60, "the server has let go of its kernels")

    second = start(real_home)
    assert [one["id"] for one in second.ok("GET", "/api/kernels")] == [kernel_id]
    assert first.process.poll() is None
    plan.arm(saving)
    assert first.process.wait(60) is not None
    assert second.ok("GET", "/api/ckpt/checkpoints") == []
    plan.disarm()
    wait_until(lambda: [one["name"] for one in second.ok("GET", "/api/ckpt/checkpoints")]
               == ["large"], 60, "the save ends")
    assert second.connect(kernel_id).run("print(x)") == "7"
