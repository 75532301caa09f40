"""A server that starts shows what lives, soon, whatever is wrong with disk, store and agents."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from record_kit import GONE, KERNELS, backend_in, me

from jupyter_ckpt import kernels, stale
from jupyter_ckpt.errors import AgentUnreachable, EncryptionKeyMissing, KernelNotFound
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.record import Record, write_record
from jupyter_ckpt.server import adoption
from jupyter_ckpt.server.adoption import Adoption
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.owner import is_orphan_of, released
from jupyter_ckpt.server.restore_service import RestoreService
from jupyter_ckpt.serverext import CheckpointApp


@pytest.fixture(autouse=True)
def kernels_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens on the ports of a kernel that is the test's own process."""
    async def answers_soon(manager: Any) -> bool:
        return False

    monkeypatch.setattr(adoption, "_answers_soon", answers_soon)


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return backend_in(tmp_path)


def orphan(backend: Backend, kernel_id: str, **changes: Any) -> Record:
    """Leave the record of a living kernel whose server is gone."""
    assert backend.owner is not None
    folder = backend.folder(kernel_id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = Record(kernel_id, kernel=me(), owner=released(backend.owner))
    record = replace(record, **changes)
    write_record(folder, record)
    return record


class FakeManager:
    """Jupyter's kernels, some of which cannot be shown."""

    def __init__(self, *broken: str) -> None:
        self.shown: dict[str, Any] = {}
        self.broken = broken
        self._pending_kernels: dict[str, Any] = {}
        self.on_shown: Callable[[], None] = lambda: None

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.shown

    async def start_kernel(self, *, kernel_id: str, **_: Any) -> str:
        self.shown[kernel_id] = SimpleNamespace(execution_state="unknown")
        if kernel_id in self.broken:
            raise KeyError("its kernelspec is gone")
        self.on_shown()
        return kernel_id

    def get_kernel(self, kernel_id: str) -> Any:
        return self.shown[kernel_id]

    def remove_kernel(self, kernel_id: str) -> None:
        del self.shown[kernel_id]


def adopting(backend: Backend, manager: FakeManager) -> Adoption:
    return Adoption(backend, manager, None, logging.getLogger())


def fail(error: Exception) -> Callable[..., None]:
    def failing(*_: Any) -> None:
        raise error

    return failing


# -- adoption ------------------------------------------------------------------------------
@pytest.mark.parametrize("step", ["finish_unfinished", "sweep", "unmark_parked"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   EncryptionKeyMissing("The key is gone.")])
def test_kernels_are_shown_though_a_step_before_fails(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    orphan(backend, KERNELS[0], parent="feed11112222")
    monkeypatch.setattr(backend, step, fail(error))
    manager = FakeManager()
    assert asyncio.run(adopting(backend, manager).adopt_all()) == [KERNELS[0]]
    assert list(manager.shown) == [KERNELS[0]]


def test_records_that_cannot_be_listed_keep_no_server_from_starting(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "records", fail(OSError(5, "Input/output error")))
    assert asyncio.run(adopting(backend, FakeManager()).adopt_all()) == []


def test_kernel_that_cannot_be_shown_is_left_to_the_next_server(backend: Backend) -> None:
    for kernel_id in KERNELS:
        orphan(backend, kernel_id)
    manager = FakeManager(KERNELS[1])
    adopted = asyncio.run(adopting(backend, manager).adopt_all())
    assert adopted == [KERNELS[0], KERNELS[2]]
    root_dir = str(backend.locations.connection_dir)
    assert [is_orphan_of(backend.record(each), root_dir) for each in KERNELS] == [
        False, True, False]


def test_kernel_that_this_very_server_has_claimed_and_does_not_show_can_be_restored(
    backend: Backend
) -> None:
    orphan(backend, KERNELS[0], owner=backend.owner)
    restores = RestoreService(backend, *[None] * 4, logging.getLogger())  # type: ignore
    assert asyncio.run(restores._refuse_foreign(KERNELS[0]))


def test_server_does_not_wait_for_a_kernel_that_is_long_brought_back_and_shows_it_then(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(backend, KERNELS[0])
    orphan(backend, KERNELS[1], kernel=GONE, recover="feed11112222")
    # By an agent that somebody else has started: nobody of ours waits for that one.
    orphan(backend, KERNELS[2], kernel=GONE, recover="beef11112222", agent=me())
    ended = threading.Event()
    monkeypatch.setattr(backend, "finish_unfinished", lambda: ended.wait(60))
    monkeypatch.setattr(adoption, "RECOVERY_WAIT_S", 0.0)
    monkeypatch.setattr(adoption, "LATER_EVERY_S", 0.0)
    manager = FakeManager()

    async def start() -> None:
        adopting_now = adopting(backend, manager)
        try:
            assert await adopting_now.adopt_all() == [KERNELS[0]]
            shown = asyncio.Event()
            manager.on_shown = shown.set
            orphan(backend, KERNELS[1])  # while the other is not back yet
            await asyncio.wait_for(shown.wait(), 60)
            assert list(manager.shown) == KERNELS[:2]
            shown.clear()
            orphan(backend, KERNELS[2])
            await asyncio.wait_for(shown.wait(), 60)
        finally:
            ended.set()
            adopting_now.stop()

    asyncio.run(start())
    assert list(manager.shown) == KERNELS


def test_kernel_that_could_not_be_brought_back_is_awaited_no_more(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan(backend, KERNELS[0], kernel=GONE, recover="feed11112222")
    monkeypatch.setattr(backend, "finish_unfinished", lambda: None)
    monkeypatch.setattr(adoption, "LATER_EVERY_S", 0.0)

    async def start() -> None:
        adopting_now = adopting(backend, FakeManager())
        assert await adopting_now.adopt_all() == []
        (backend.folder(KERNELS[0]) / "record.json").unlink()
        assert adopting_now._later is not None
        await asyncio.wait_for(adopting_now._later, 60)

    asyncio.run(start())


@pytest.mark.parametrize("running", [None, {"busy": None, "running": None}])
def test_kernel_of_which_its_agent_says_nothing_is_asked_itself(
    monkeypatch: pytest.MonkeyPatch, running: dict[str, Any] | None
) -> None:
    """Or an idle one whose agent is slow would be shown busy until somebody runs a cell."""
    manager = SimpleNamespace(execution_state="unknown")
    answers = True

    async def answers_soon(manager: Any) -> bool:
        return answers

    monkeypatch.setattr(adoption, "_answers_soon", answers_soon)
    asyncio.run(adoption.tell_state(manager, running))
    assert manager.execution_state == "idle"
    answers = False
    asyncio.run(adoption.tell_state(manager, running))
    assert manager.execution_state == "busy"


@pytest.mark.parametrize("step", ["finish_unfinished", "sweep", "unmark_parked"])
def test_store_that_hangs_keeps_no_server_from_starting_and_showing_what_lives(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    orphan(backend, KERNELS[0], parent="feed11112222")
    answers = threading.Event()
    for wait in ("RECOVERY_WAIT_S", "STORE_WAIT_S"):
        monkeypatch.setattr(adoption, wait, 0.0)
    monkeypatch.setattr(backend, step, lambda *_: answers.wait(60))

    async def start() -> list[str]:
        try:
            return await adopting(backend, FakeManager()).adopt_all()
        finally:
            assert not answers.is_set()
            answers.set()

    assert asyncio.run(start()) == [KERNELS[0]]


# -- what comes before ------------------------------------------------------------------------
class FakeAgent:
    """An agent that brings a kernel back, and takes longer than anybody waits."""

    def __init__(self, kernel_id: str, seen: list[tuple[str, str]]) -> None:
        self.kernel_id, self.seen = kernel_id, seen
        self.timeouts: list[float] = []

    def wait(self, kind: str, request_id: str, timeout_s: float) -> None:
        self.seen.append(("waited for", self.kernel_id))
        self.timeouts.append(timeout_s)
        raise AgentUnreachable(f"The agent of kernel {self.kernel_id} is still restoring.")


def test_agents_are_all_started_before_any_is_waited_for_and_none_for_ever(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for kernel_id in KERNELS:
        orphan(backend, kernel_id, kernel=GONE, agent=GONE, recover="feed11112222")
    seen: list[tuple[str, str]] = []
    agents: list[FakeAgent] = []

    def start_agent(locations: Locations, kernel_id: str) -> FakeAgent:
        seen.append(("started", kernel_id))
        if kernel_id == KERNELS[0]:
            raise OSError(11, "Resource temporarily unavailable")
        agents.append(FakeAgent(kernel_id, seen))
        return agents[-1]

    monkeypatch.setattr(kernels, "start_agent", start_agent)
    monkeypatch.setattr(kernels, "remove_stale", fail(OSError(30, "Read-only file system")))
    assert kernels.list_kernels(backend.locations) == []
    assert seen == [*[("started", each) for each in KERNELS],
                    *[("waited for", each) for each in KERNELS[1:]]]
    assert all(0 <= each <= kernels.LISTING_DEADLINE_S
               for agent in agents for each in agent.timeouts)
    assert "is still restoring. Its checkpoint is feed11112222." in caplog.text


def test_one_stale_record_that_cannot_be_cleared_leaves_the_others_cleared(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernel_id in KERNELS:
        orphan(backend, kernel_id, kernel=GONE)
    settle = stale.exchange.settle

    def settle_some(folder: Path, record: Record) -> None:
        if record.kernel_id == KERNELS[0]:
            raise OSError(30, "Read-only file system")
        settle(folder, record)

    monkeypatch.setattr(stale.exchange, "settle", settle_some)
    stale.sweep(backend.locations)
    assert backend.record(KERNELS[0]).kernel == GONE
    for kernel_id in KERNELS[1:]:
        with pytest.raises(KernelNotFound):
            backend.record(kernel_id)


def test_extension_that_failed_to_load_does_not_keep_its_server_from_ending() -> None:
    asyncio.run(CheckpointApp().stop_extension())
