"""Saving when memory runs short: what is read, what is decided, and a real session saved so."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_harness import Home, StartServer, wait_until

from jupyter_ckpt.agent import pressure as module
from jupyter_ckpt.agent.memory import Room, pressure_files, rooms
from jupyter_ckpt.agent.pressure import (
    BUSY_RETRY_S,
    SAVED_RETRY_S,
    SAVING_LOOK_S,
    UNCHANGED_RETRY_S,
    PressureGuard,
    configured_threshold,
)
from jupyter_ckpt.agent.psi import LOOK_EVERY_S, PressureWait
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.plan import SAVE_BELOW_VARIABLE, Schedule
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record
from jupyter_ckpt.sizes import Threshold

pytest_plugins = ["jupyter_fixtures"]
GB = 10**9


# -- reading ----------------------------------------------------------------------------
class Tree:
    """A /proc and a /sys of the test's own, with a machine of 8 GB of which 4 are free."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:  8000000 kB\nMemFree: 7 kB\nMemAvailable: 4000000 kB")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def rooms(self) -> list[tuple[int, int]]:
        return [(room.available_bytes, room.total_bytes) for room in rooms(7, self.root)]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


MACHINE = (4_096_000_000, 8_192_000_000)


def test_room_of_a_machine_without_cgroups(tree: Tree) -> None:
    assert tree.rooms() == [MACHINE]
    assert pressure_files(7, tree.root) == [tree.root / "proc/pressure/memory"]


def test_room_of_every_cgroup_with_a_limit(tree: Tree) -> None:
    top = "sys/fs/cgroup"
    tree.write("proc/7/cgroup", "0::/user/app\n")
    tree.write(f"{top}/cgroup.controllers", "memory")
    tree.write(f"{top}/user/memory.max", "3000000000\n")
    tree.write(f"{top}/user/memory.current", "2500000000\n")
    tree.write(f"{top}/user/memory.stat", "anon 1\ninactive_file 500000000\n")
    tree.write(f"{top}/user/app/memory.max", "max\n")
    tree.write(f"{top}/user/app/memory.current", "2500000000\n")
    tree.write(f"{top}/user/app/memory.stat", "inactive_file 0\n")
    tree.write(f"{top}/user/app/memory.pressure", "")
    assert tree.rooms() == [MACHINE, (GB, 3 * GB)]
    assert pressure_files(7, tree.root)[1] == tree.root / top / "user/app/memory.pressure"


def test_room_of_a_cgroup_of_the_old_kind_in_a_container(tree: Tree) -> None:
    top = "sys/fs/cgroup/memory"
    tree.write("proc/7/cgroup", "4:memory:/docker/of-the-host\n1:cpu:/\n")
    tree.write(f"{top}/memory.limit_in_bytes", "2000000000")
    tree.write(f"{top}/memory.usage_in_bytes", "2000000000")
    tree.write(f"{top}/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n")
    assert tree.rooms() == [MACHINE, (100, 2 * GB)]
    tree.write(f"{top}/memory.limit_in_bytes", "9223372036854771712")
    assert tree.rooms() == [MACHINE]


def test_room_of_this_machine() -> None:
    found = rooms(os.getpid())
    assert found
    assert all(0 <= room.available_bytes <= room.total_bytes for room in found)


# -- waiting ----------------------------------------------------------------------------
@pytest.fixture
def wait() -> Iterator[PressureWait]:
    wait = PressureWait()
    yield wait
    wait.close()


@pytest.fixture
def source() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a line; what one sends as urgent is to the other as pressure is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    yield near, far
    near.close()
    far.close()


def test_wait_ends_under_pressure_and_when_woken(
        wait: PressureWait, source: tuple[socket.socket, socket.socket]) -> None:
    near, far = source
    wait.watch(os.dup(far.fileno()))
    assert wait.armed
    near.send(b"!", socket.MSG_OOB)
    wait.wait(None)
    far.recv(1, socket.MSG_OOB)
    threading.Thread(target=wait.wake).start()
    wait.wait(None)
    wait.wake()
    wait.wait(None, watching=False)


def test_without_triggers_it_looks_every_few_seconds(
        wait: PressureWait, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait.arm([tmp_path / "no such file"])
    assert not wait.armed
    waited: list[float] = []
    monkeypatch.setattr(wait, "_poll", SimpleNamespace(poll=lambda ms: waited.append(ms) or []))
    wait.wait(None)
    wait.wait(300)
    wait.wait(1)
    assert waited == [LOOK_EVERY_S * 1000, LOOK_EVERY_S * 1000, 1000]


@pytest.mark.skipif(not os.access("/proc/pressure/memory", os.W_OK), reason="no PSI here")
def test_trigger_is_set_where_the_kernel_permits_it(wait: PressureWait) -> None:
    if os.geteuid() != 0 and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 6):
        pytest.skip("only root may set triggers before Linux 6.6")
    wait.arm(pressure_files(os.getpid()))
    assert wait.armed
    wait.arm([])
    assert not wait.armed


# -- deciding ---------------------------------------------------------------------------
@dataclass
class Bench:
    """A guard on a clock, a memory and a disk that only the test changes."""

    folder: Path
    answer: str | Exception | None = None
    """What the scheduler says instead of saving."""
    now: float = 1000.0
    available: int = 8 * GB
    free_disk: int = 100 * GB
    saves: list[Job] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    threshold: Threshold | None = field(default_factory=lambda: Threshold(share=0.05))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        record = Record(self.folder.name, kernel=ProcessId.of(os.getpid()),
                        schedule=Schedule(60.0))
        self.kernel = SimpleNamespace(record=record, processes=lambda: [{"rss_bytes": GB}])
        agent: Any = SimpleNamespace(kernel=self.kernel, folder=self.folder,
                                     tools=SimpleNamespace(store_dir=self.folder))
        self.guard = PressureGuard(
            agent, self, self.threshold, lambda: self.now,
            lambda pid: [Room(self.available, 10 * GB, "the machine")], lambda path: self.free_disk)

    def save_if_went_on(self, kernel: Any, trigger: str, purpose: str | None = None) -> Job | str:
        assert (kernel, trigger, purpose) == (self.kernel, "interval", "pressure")
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        self.saves.append(Job(f"auto-{len(self.saves):08}", "checkpoints"))
        return self.saves[-1]

    def tell_failure(self, error: CheckpointError) -> None:
        self.told.append(error.message)

    def later(self, seconds: float) -> float | None:
        self.now += seconds
        return self.guard.look()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "kernel-0001")


def test_plenty_of_memory_costs_nothing(bench: Bench) -> None:
    assert bench.later(0) is None
    assert bench.saves == []


def test_saves_when_memory_runs_short_and_not_again_for_minutes(bench: Bench) -> None:
    bench.available = GB // 2
    assert bench.later(0) == SAVING_LOOK_S
    assert bench.later(1) == SAVING_LOOK_S
    bench.saves[0].state = "done"
    assert bench.later(1) == SAVED_RETRY_S - 2
    assert len(bench.saves) == 1
    assert bench.later(SAVED_RETRY_S) == SAVING_LOOK_S
    assert len(bench.saves) == 2


def test_kernel_without_a_schedule_is_left_alone(bench: Bench) -> None:
    bench.available = GB // 2
    bench.kernel.record.schedule = None
    assert bench.later(0) is None
    assert bench.saves == []


@pytest.mark.parametrize(("answer", "again_s"), [
    ("unchanged", UNCHANGED_RETRY_S), ("busy", BUSY_RETRY_S)])
def test_unchanged_or_busy_kernel_is_looked_at_again(
        bench: Bench, answer: str, again_s: float) -> None:
    bench.available, bench.answer = GB // 2, answer
    assert bench.later(0) == again_s
    bench.answer = None
    assert bench.later(again_s) == SAVING_LOOK_S
    assert len(bench.saves) == 1


def test_two_kernels_are_not_saved_at_once(tmp_path: Path) -> None:
    first, second = (Bench(tmp_path / name, available=GB // 2) for name in ("kernel-1", "kernel-2"))
    assert first.later(0) == SAVING_LOOK_S
    assert second.later(0) == BUSY_RETRY_S
    assert second.saves == []
    first.saves[0].state = "failed"
    first.later(1)
    assert second.later(BUSY_RETRY_S) == SAVING_LOOK_S


def test_guard_that_stumbles_keeps_nobody_from_saving(tmp_path: Path) -> None:
    first, second = (Bench(tmp_path / name, available=GB // 2) for name in ("kernel-1", "kernel-2"))
    first.answer = MemoryError()
    with pytest.raises(MemoryError):
        first.later(0)
    assert second.later(0) == SAVING_LOOK_S
    assert len(second.saves) == 1


@pytest.mark.parametrize(("changes", "word"), [
    ({"available": 60 << 20}, "so short"), ({"free_disk": GB}, "on the disk")])
def test_what_cannot_succeed_is_not_tried_but_told(
        bench: Bench, changes: dict[str, int], word: str) -> None:
    bench.available = GB // 2
    for name, value in changes.items():
        setattr(bench, name, value)
    assert bench.later(0) == SAVED_RETRY_S
    assert bench.saves == []
    assert word in bench.told[0]
    bench.available, bench.free_disk = GB // 2, 100 * GB
    bench.later(SAVED_RETRY_S)
    assert len(bench.saves) == 1


def test_free_disk_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    assert module.free_disk_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize(("text", "threshold"), [
    (None, Threshold(share=0.05)), ("2G", Threshold(size_bytes=2 * GB)), ("off", None),
    ("much", Threshold(share=0.05))])
def test_threshold_of_the_environment(
        monkeypatch: pytest.MonkeyPatch, text: str | None, threshold: Threshold | None) -> None:
    monkeypatch.delenv(SAVE_BELOW_VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(SAVE_BELOW_VARIABLE, text)
    assert configured_threshold() == threshold


# -- with a real server -----------------------------------------------------------------
def test_session_saved_for_want_of_memory_comes_back_after_its_kernel_was_killed(
        real_home: Home, start: StartServer) -> None:
    real_home.configure('c.CheckpointApp.save_below_memory = "100%"\n')
    real_home.write_notebook("big.ipynb", "x = 1")
    server = start(real_home)
    kernel_id = server.open_session("big.ipynb")["kernel"]["id"]
    channel = server.connect(kernel_id)
    channel.run("x = [41]; it = iter(range(10)); next(it)")
    server.ok("PUT", f"/api/ckpt/kernels/{kernel_id}/schedule", {"every": "1h"})

    def saved() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.ok(
            "GET", f"/api/ckpt/checkpoints?kernel_id={kernel_id}")
        return [m for m in found if (m["trigger"], m["purpose"]) == ("interval", "pressure")]

    checkpoint = wait_until(saved, 90, "a checkpoint for want of memory")[0]
    first = real_home.record(kernel_id)
    assert first is not None
    os.kill(first["kernel"]["pid"], signal.SIGKILL)  # as the OOM killer does

    def restarted() -> bool:
        record = real_home.record(kernel_id)
        return record is not None and record["kernel"] not in (None, first["kernel"])

    wait_until(restarted, 90, "Jupyter has started the kernel anew")
    channel.close()
    channel = server.connect(kernel_id)
    assert channel.run("print('x' in globals())") == "False"
    server.ok("POST", f"/api/ckpt/checkpoints/{checkpoint['id']}/restore", {"mode": "in-place"})
    channel.close()
    channel = server.connect(kernel_id)
    assert channel.run("print(x, next(it))") == "[41] 1"
    channel.close()
    assert server.ok("GET", "/api/sessions")[0]["kernel"]["id"] == kernel_id
