"""Restores in place that meet an error of the server itself."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fault_plan import FaultPlan
from jupyter_harness import Home, Server, StartServer, wait_until

from jupyter_ckpt.errors import KernelNotFound
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.provisioner import CheckpointProvisioner
from jupyter_ckpt.record import Record
from jupyter_ckpt.server.lookup import await_launch

pytest_plugins = ["jupyter_fixtures"]


def broken_at(home: Home, start: StartServer, plan: Path, point: str) -> tuple[Server, str, str]:
    """Have a saved session with ``x = 7``, and a restore that will meet a full disk."""
    faults = FaultPlan(plan)
    server = start(home, **faults.environment)
    kernel_id = str(server.open_session("a.ipynb")["kernel"]["id"])
    assert server.connect(kernel_id).run("x = 7; print(x)") == "7"
    saved = str(server.save(kernel_id)["result"]["id"])
    faults.arm({"point": point, "act": "enospc"})
    return server, kernel_id, saved


def still_watched(home: Home, server: Server, kernel_id: str) -> None:
    """Kill the kernel and see the restarter start another."""
    before = home.record(kernel_id)
    assert before is not None
    os.kill(before["kernel"]["pid"], signal.SIGKILL)
    wait_until(lambda: (home.record(kernel_id) or before)["kernel"] not in (
        None, before["kernel"]), 60, "the restarter starts another kernel")
    assert server.connect(kernel_id).run("print('x' in globals())") == "False"


@pytest.mark.parametrize("point", ["swap.begun", "swap.restored", "swap.done"])
def test_kernel_is_shown_and_watched_again_whatever_goes_wrong(
    real_home: Home, start: StartServer, tmp_path: Path, point: str
) -> None:
    server, kernel_id, saved = broken_at(real_home, start, tmp_path / "plan", point)
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved}/restore",
                            {"mode": "in-place", "kernel_id": kernel_id})
    assert "No space left" in answer.json()["error"]["message"]
    assert server.connect(kernel_id).run("print(x)") == "7"
    still_watched(real_home, server, kernel_id)


def test_first_error_of_a_restore_is_told(
    fake_home: Home, start: StartServer, tmp_path: Path
) -> None:
    server, kernel_id, saved = broken_at(fake_home, start, tmp_path / "plan", "swap.restored")
    fake_home.fail_next(kernel_id, id="restore-failed", code=6, message="A library is missing.")
    answer = server.request("POST", f"/api/ckpt/checkpoints/{saved}/restore",
                            {"mode": "in-place", "kernel_id": kernel_id})
    assert answer.json()["error"]["message"] == "A library is missing."
    assert "could not be shown again" in server.log.read_text()
    still_watched(fake_home, server, kernel_id)


# -- what is asked of a kernel while its process is exchanged --------------------------------
def asked_meanwhile(
    home: Home, server: Server, kernel_id: str, method: str, path: str
) -> tuple[int, int]:
    """Ask when the old process is gone and none is there; return how both requests ended."""
    saved = server.save(kernel_id)["result"]["id"]
    old = ProcessId.from_dict((home.record(kernel_id) or {})["kernel"])
    assert old is not None
    hold = home.runtime / "ckpt" / kernel_id / "hold"
    hold.touch()
    with ThreadPoolExecutor() as threads:
        restore = threads.submit(server.request, "POST",
                                 f"/api/ckpt/checkpoints/{saved}/restore", {"mode": "in-place"})
        wait_until(lambda: not old.is_alive(), what="the old process is ended")
        other = threads.submit(server.request, method, path)
        # It has arrived when the server, which answers in turn, knows of a later one.
        server.ok("GET", "/api/kernels")
        assert not other.done()
        hold.unlink()
        return restore.result().status_code, other.result().status_code


def test_restart_that_is_asked_for_during_a_restore_comes_after_it(
    fake_home: Home, start: StartServer
) -> None:
    server = start(fake_home)
    kernel_id = str(server.open_session("a.ipynb")["kernel"]["id"])
    assert asked_meanwhile(fake_home, server, kernel_id, "POST",
                           f"/api/kernels/{kernel_id}/restart") == (200, 200)
    assert server.connect(kernel_id).run("print(2)") == "2"
    assert kernels_of(fake_home) == [(fake_home.record(kernel_id) or {})["kernel"]["pid"]]
    still_watched(fake_home, server, kernel_id)


def test_session_that_is_closed_during_a_restore_ends_with_its_kernel(
    fake_home: Home, start: StartServer
) -> None:
    server = start(fake_home)
    session = server.open_session("a.ipynb")
    kernel_id = str(session["kernel"]["id"])
    assert asked_meanwhile(fake_home, server, kernel_id, "DELETE",
                           f"/api/sessions/{session['id']}") == (200, 204)
    assert server.ok("GET", "/api/kernels") == []
    assert kernels_of(fake_home) == []


def kernels_of(home: Home) -> list[int]:
    """Return the pids of the kernels that run with a connection file of `home`."""
    wanted = f"{home.runtime}/kernel-".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if wanted in path.read_bytes():
                found.append(int(path.parent.name))
    return found


# -- a kernel that is just being started ----------------------------------------------------
class Starting:
    """Shows one kernel whose provisioner gets its record at the third look."""

    shutting_down = False

    def __init__(self, provisioner: Any) -> None:
        self.provisioner, self.looks = provisioner, 0

    def __contains__(self, kernel_id: str) -> bool:
        return True

    def get_kernel(self, kernel_id: str) -> Any:
        self.looks += 1
        if self.looks == 3:
            self.provisioner.record = Record(kernel_id)
        return self


@pytest.mark.parametrize(("ours", "looks"), [(True, 3), (False, 1)])
def test_restore_waits_for_a_kernel_of_ours_that_is_only_starting(ours: bool, looks: int) -> None:
    provisioner = CheckpointProvisioner.__new__(CheckpointProvisioner) if ours else object()
    if ours:
        provisioner.record = None  # type: ignore[attr-defined]
    shown = Starting(provisioner)
    asyncio.run(await_launch(shown, "kernel-0001"))
    assert shown.looks == looks


class Ending(Starting):
    """Shows one kernel that is being ended, until the third look."""

    shutting_down = True

    def __contains__(self, kernel_id: str) -> bool:
        return self.looks < 3


def test_restore_over_a_kernel_that_is_being_ended_says_so() -> None:
    provisioner = CheckpointProvisioner.__new__(CheckpointProvisioner)
    provisioner.record = Record("kernel-0001")
    with pytest.raises(KernelNotFound, match="shut down"):
        asyncio.run(await_launch(Ending(provisioner), "kernel-0001"))
