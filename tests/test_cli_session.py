"""The command line on real kernels: saved, killed with -9, and brought back."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from checkpointable import need_checkpoints
from jupyter_client.blocking import BlockingKernelClient
from store_kit import rot

from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import read_record

DEADLINE_S = 60
COUNTING = """
import threading, time
ticks = 0
def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.01)
threading.Thread(target=count, daemon=True).start()
value = "as saved"
"""


class Home:
    """A user's own folders, and ``jupyter ckpt`` run in them as a program."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.env = {**os.environ, "JUPYTER_DATA_DIR": str(folder / "data"),
                    "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
                    "IPYTHONDIR": str(folder / "ipython")}
        self.locations = Locations(
            folder / "runtime" / "ckpt", folder / "runtime", folder / "data" / "ckpt")

    def ckpt(self, *args: str, code: int = 0) -> Any:
        """Run a verb with ``--json``; return its document, or the error in it."""
        ran = subprocess.run(
            [sys.executable, "-m", "jupyter_ckpt.cli.main", *args, "--json"], env=self.env,
            cwd=self.work, capture_output=True, text=True, timeout=120)
        assert ran.returncode == code, ran.stdout + ran.stderr
        document = json.loads(ran.stdout)
        told: bool = isinstance(document, dict) and "error" in document
        return document["error"] if told else document

    def kill_everything(self, kernel_id: str) -> None:
        """End a kernel, its box and its agent with -9, and wait until they are gone."""
        record = read_record(self.locations.folder(kernel_id))
        victims = [p for p in (record.agent, record.init, record.root, record.kernel) if p]
        for victim in victims:
            with suppress(ProcessLookupError):  # with its box, just now
                if victim.is_alive():
                    os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: not any(ProcessId.of(v.pid) == v for v in victims))


def wait_until(condition: Any) -> None:
    """Poll until `condition` holds; fail after a minute."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def connected(connection_file: str) -> Iterator[BlockingKernelClient]:
    client = BlockingKernelClient(connection_file=connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        # Not wait_for_ready: on a busy machine it takes a late heartbeat for a death.
        wait_until(lambda: heard(client))
        yield client
    finally:
        client.stop_channels()


def heard(client: BlockingKernelClient) -> bool:
    """Tell whether a kernel answers on both the shell and the iopub channel."""
    client.kernel_info()
    try:
        client.get_shell_msg(timeout=1)
        client.get_iopub_msg(timeout=0.2)
    except queue.Empty:
        return False
    return True


def evaluate(kernel: dict[str, Any], code: str) -> str:
    """Run `code` in a kernel; return the text of its result and what it printed."""
    found: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        content = message["content"]
        found.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    with connected(kernel["connection_file"]) as client:
        reply = client.execute_interactive(code, timeout=DEADLINE_S, output_hook=collect)
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(found)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    need_checkpoints()
    home = Home(tmp_path)
    yield home
    for kernel in home.ckpt("ps"):
        home.ckpt("stop", kernel["kernel_id"])


def test_session_saved_and_killed_comes_back_and_goes_on(home: Home) -> None:
    kernel = home.ckpt("start")
    evaluate(kernel, COUNTING)
    saved = home.ckpt("save", "--name", "mine")
    ticks = int(evaluate(kernel, "value = 'later'; print(ticks)"))
    assert saved["kernel"]["id"] == kernel["kernel_id"]
    assert [row["last_checkpoint"] for row in home.ckpt("ps")] == [saved["id"]]

    home.kill_everything(kernel["kernel_id"])
    assert home.ckpt("ps") == []
    assert [m["id"] for m in home.ckpt("list", kernel["kernel_id"])] == [saved["id"]]

    restored = home.ckpt("restore", "mine")
    assert restored == {**kernel, "server_url": None, "notebook": None,
                        "warnings": restored["warnings"]}
    assert evaluate(restored, "print(value)") == "as saved\n"
    wait_until(lambda: int(evaluate(restored, "print(ticks)")) > ticks)


def test_restore_in_place_can_itself_be_undone(home: Home) -> None:
    kernel = home.ckpt("start")
    evaluate(kernel, "value = 1")
    saved = home.ckpt("save", kernel["kernel_id"][:8])
    evaluate(kernel, "value = 2")
    home.ckpt("restore", saved["id"], "--in-place")
    assert evaluate(kernel, "print(value)") == "1\n"
    undo = next(m for m in home.ckpt("list") if m["id"] != saved["id"])
    home.ckpt("restore", undo["id"])
    assert evaluate(kernel, "print(value)") == "2\n"


def test_copies_are_independent_of_the_original(home: Home) -> None:
    notebook = home.work / "job.ipynb"
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    kernel = home.ckpt("start", "--notebook", "job.ipynb")
    evaluate(kernel, "value = 1")
    (copy,) = home.ckpt("fork", "job.ipynb")
    assert set(copy) == {"kernel_id", "connection_file"}
    evaluate(copy, "value = 2")
    new = home.ckpt("restore", home.ckpt("list")[0]["id"], "--new")
    assert new["notebook"] == str(home.work / "job-restored.ipynb")
    assert Path(new["notebook"]).read_text() == notebook.read_text()
    evaluate(new, "value = 3")
    assert [evaluate(k, "print(value)") for k in (kernel, copy, new)] == ["1\n", "2\n", "3\n"]
    assert len({row["pid"] for row in home.ckpt("ps")}) == 3


def test_save_and_restore_with_another_store(home: Home) -> None:
    kernel = home.ckpt("start")
    evaluate(kernel, "value = 1")
    elsewhere = str(home.work / "elsewhere")
    saved = home.ckpt("save", "--store", elsewhere)
    assert home.ckpt("list") == []
    assert [m["id"] for m in home.ckpt("list", "--store", elsewhere)] == [saved["id"]]
    evaluate(kernel, "value = 2")
    home.ckpt("restore", saved["id"], "--store", elsewhere)
    assert evaluate(kernel, "print(value)") == "1\n"


def test_name_that_exists_and_damage_are_told_and_the_kernel_goes_on(home: Home) -> None:
    kernel = home.ckpt("start")
    saved = home.ckpt("save", "--name", "mine")
    assert home.ckpt("save", "--name", "mine", code=2)["id"] == "name-taken"
    chunk = max((p for p in (home.locations.store_dir / "chunks").rglob("*") if p.is_file()),
                key=lambda path: path.stat().st_size)
    rot(chunk)
    assert [bad["id"] for bad in home.ckpt("verify", code=7)["bad"]] == [saved["id"]]
    assert home.ckpt("restore", "mine", code=7)["id"] == "chunk-corrupt"
    assert evaluate(kernel, "print('alive')") == "alive\n"
    assert [m["id"] for m in home.ckpt("list")] == [saved["id"]]


def test_stop_ends_the_kernel_and_its_processes(home: Home) -> None:
    kernel = home.ckpt("start")
    evaluate(kernel, "import subprocess; subprocess.Popen(['sleep', '600'])")
    record = read_record(home.locations.folder(kernel["kernel_id"]))
    assert home.ckpt("stop", kernel["kernel_id"]) == {"stopped": kernel["kernel_id"]}
    assert not record.is_alive()
    assert home.ckpt("ps") == []
    assert home.ckpt("stop", kernel["kernel_id"], code=3)["id"] == "kernel-not-found"
