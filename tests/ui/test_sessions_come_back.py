"""Sessions that ended behind the user's back, and how JupyterLab brings them back."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest
from conftest import OpenNotebook, lab_home, start_lab
from jupyter_harness import Server, wait_until
from lab_page import CURRENT, LabPage
from playwright.sync_api import Error, expect

pytestmark = pytest.mark.timeout(600)

CHOOSE_KERNEL = f"{CURRENT}.sessionContext.changeKernel({{name: 'python3'}}).then(() => null)"
"""What the dialog "Select Kernel" does."""
ASKED_OF_THE_DEAD = "404.*/running"
"""A page may just be asking what runs when the test ends the kernel: it gets told so."""


@pytest.fixture(scope="module")
def culling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab that culls idle kernels, also under open pages."""
    home = lab_home(tmp_path_factory.mktemp("culling"))
    server = start_lab(home, *(f"--MappingKernelManager.{option}" for option in (
        "cull_idle_timeout=6", "cull_interval=1", "cull_connected=True")))
    yield server
    server.stop()
    home.end_all_kernels()


@pytest.fixture(scope="module")
def short_of_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab where memory always runs short, and that saves its kernels when it ends."""
    home = lab_home(tmp_path_factory.mktemp("short"))
    server = start_lab(home, "--CheckpointApp.save_below_memory=100%",
                       "--CheckpointApp.on_shutdown=save-and-stop")
    yield server
    server.stop()
    home.end_all_kernels()


def is_culled(page: LabPage) -> None:
    """Wait until the server has culled every kernel and the page has seen it."""
    wait_until(lambda: page.server.ok("GET", "/api/kernels") == [], 60, "the kernel is culled")
    page.page.wait_for_function(
        f"(k => !k || ['dead', 'unknown'].includes(k.status) || k.connectionStatus !== 'connected')"
        f"({CURRENT}.sessionContext.session?.kernel)")


def choose_kernel(page: LabPage) -> None:
    """Select a kernel as a person does: again where the page had not heard of the end yet."""
    def chosen() -> bool:
        try:
            page.page.evaluate(CHOOSE_KERNEL)
        except Error as error:
            if "Session not found" in error.message:
                return False
            raise
        return True

    wait_until(chosen, 60, "a kernel is chosen")


def restarting(page: LabPage) -> None:
    """Close JupyterLab's own word that the kernel has died."""
    dialog = page.page.locator(".jp-Dialog", has_text="appears to have died")
    dialog.get_by_role("button", name="Ok").click()
    expect(dialog).to_have_count(0)


def test_culled_session_comes_back_in_the_open_page_and_in_a_new_one(
    open_notebook: OpenNotebook, culling: Server
) -> None:
    page = open_notebook("culled.ipynb", "x = 7; print(x)", "print(x + 1)", server=culling)
    page.expected += ["404", "WebSocket", "Kernel", "kernel", "session"]
    assert page.run(0) == "7"
    is_culled(page)
    page.picture("culled")
    choose_kernel(page)
    toast = page.toast(re.compile(r"Session restored from the checkpoint of .+ \(before cull\)"))
    expect(toast).to_be_visible()
    page.picture("revived")
    assert page.run(1) == "8"
    assert page.is_same_page

    page.page.goto("about:blank")
    wait_until(lambda: culling.ok("GET", "/api/kernels") == [], 60, "it is culled again")
    page.open("culled.ipynb")
    expect(toast).to_be_visible()
    assert page.run(1) == "8"


def test_crashed_session_is_offered_and_restored(open_notebook: OpenNotebook) -> None:
    page = open_notebook("crashed.ipynb", "x = 7; print(x)", "print(globals().get('x'))")
    page.expected += ["WebSocket", "Kernel", ASKED_OF_THE_DEAD]
    assert page.run(0) == "7"
    page.save()
    record = page.server.home.record(page.kernel_id)
    assert record is not None
    os.kill(record["kernel"]["pid"], signal.SIGKILL)
    toast = page.toast(re.compile(
        r"The kernel of crashed.ipynb died \(killed by signal 9, out of memory\?\)\. "
        r"Last checkpoint: .+, \d+ s before\."))
    expect(toast).to_be_visible()
    page.picture("crash-offered")
    restarting(page)
    # It stands until somebody answers it, also in a page that is opened later.
    page.open("crashed.ipynb")
    expect(toast).to_be_visible()
    assert page.run(1) == "None"
    toast.get_by_role("button", name="Restore").click()
    expect(page.toast(re.compile("Checkpoint .+ is restored"))).to_be_visible()
    expect(toast).to_have_count(0)
    assert page.run(1) == "7"
    page.picture("crash-restored")
    assert page.server.ok("GET", "/api/ckpt/offers") == []

    os.kill(page.server.home.record(page.kernel_id)["kernel"]["pid"],  # type: ignore[index]
            signal.SIGSEGV)
    toast = page.toast(re.compile("crashed with signal 11, SIGSEGV"))
    restarting(page)
    toast.get_by_role("button", name="Dismiss").click()
    expect(toast).to_have_count(0)
    wait_until(lambda: page.server.ok("GET", "/api/ckpt/offers") == [], 20, "it is dismissed")


def test_session_saved_for_want_of_memory_is_offered_when_the_kernel_is_killed(
    open_notebook: OpenNotebook, short_of_memory: Server
) -> None:
    page = open_notebook("big.ipynb", "x = 7; print(x)", "print(globals().get('x'))",
                         server=short_of_memory)
    page.expected += ["WebSocket", "Kernel", ASKED_OF_THE_DEAD]
    assert page.run(0) == "7"
    server, kernel_id = page.server, page.kernel_id
    server.ok("PUT", f"/api/ckpt/kernels/{kernel_id}/schedule", {"every": "1h"})
    wait_until(lambda: "pressure" in [
        one["purpose"] for one in server.ok("GET", f"/api/ckpt/checkpoints?kernel_id={kernel_id}")])
    record = server.home.record(kernel_id)
    assert record is not None
    os.kill(record["kernel"]["pid"], signal.SIGKILL)  # as the OOM killer does
    toast = page.toast(re.compile("The kernel of big.ipynb died .*out of memory"))
    expect(toast).to_be_visible()
    restarting(page)
    wait_until(lambda: [one["execution_state"] for one in server.ok("GET", "/api/kernels")]
               == ["idle"], 60, "the fresh kernel is idle")
    toast.get_by_role("button", name="Restore").click()
    expect(page.toast(re.compile("Checkpoint .+ is restored"))).to_be_visible()
    assert page.run(1) == "7"


def test_session_of_a_server_that_was_terminated_comes_back_with_its_notebook(
    open_notebook: OpenNotebook, short_of_memory: Server
) -> None:
    page = open_notebook("ended.ipynb", "x = 7; print(x)", "print(x + 1)", server=short_of_memory)
    page.expected += ["WebSocket", "Kernel", "Failed", "ERR_", "fetch", "session", "kernel"]
    assert page.run(0) == "7"
    short_of_memory.stop()  # SIGTERM, as at a preemption
    assert short_of_memory.home.records() == []
    successor = start_lab(short_of_memory.home, port=short_of_memory.port)
    try:
        page.page.goto("about:blank")
        page.open("ended.ipynb")
        expect(page.toast(re.compile(
            r"Session restored from the checkpoint of .+ \(at shutdown\)"))).to_be_visible()
        page.picture("after-sigterm")
        assert page.run(1) == "8"
    finally:
        successor.stop()
