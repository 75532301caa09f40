"""A whole session survives, in every privilege mode: the product's promise."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.procfs import own_umask
from jupyter_ckpt.record import read_record

MODES = ["root", "rootless", "caps"]

SETUP = """
import os, operator, subprocess, sys, threading, time
import numpy as np
import matplotlib.pyplot as plt
from concurrent.futures import ProcessPoolExecutor

data = np.arange(2_000_000, dtype="float64")
view = data[::2]
squares = (n * n for n in range(1000))
first_squares = [next(squares) for _ in range(5)]
ticks = 0
def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.01)
threading.Thread(target=count, daemon=True).start()
echo = subprocess.Popen(
    [sys.executable, "-uc",
     "import sys\\nfor n, line in enumerate(sys.stdin): print(n, line.strip())"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def ask(word):
    echo.stdin.write(word + "\\n"); echo.stdin.flush()
    return echo.stdout.readline().strip()
ask("zero")
pool = ProcessPoolExecutor(2)
pool.submit(operator.add, 1, 2).result()
log = open("log.txt", "w+")
log.write("before the checkpoint;"); log.flush()
def make_counter():
    n = 0
    def bump():
        nonlocal n
        n += 1
        return n
    return bump
counter = make_counter(); counter()
figure, axes = plt.subplots(); axes.plot([1, 2, 3])
os.environ["MARK"] = "kept"
print("ready")
"""

CHECK = """
before = ticks; time.sleep(0.1)
log.write("after;"); log.flush(); log.seek(0)
print({
  "data": float(data.sum()), "view": bool(np.shares_memory(data, view)),
  "generator": next(squares), "thread": ticks > before,
  "child": ask("one"), "pool": pool.submit(operator.add, 20, 22).result(timeout=20),
  "file": log.read(), "closure": counter(), "figure": len(axes.lines),
  "environment": os.environ["MARK"]})
"""

EXPECTED = {
    "data": 1999999000000.0, "view": True, "generator": 25, "thread": True, "child": "1 one",
    "pool": 42, "file": "before the checkpoint;after;", "closure": 2, "figure": 1,
    "environment": "kept",
}


@pytest.fixture(params=MODES)
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    with shell_in(request.param) as found:
        yield found


@pytest.fixture
def root_shell() -> Iterator[Shell]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as found:
        yield found


def prepared_session(shell: Shell) -> tuple[dict[str, Any], Talker]:
    started = shell.start()
    talker = Talker(started["connection_file"])
    assert talker.run(SETUP) == "ready"
    return started, talker


def check(talker: Talker) -> dict[str, Any]:
    found: dict[str, Any] = eval(talker.run(CHECK))
    return found


def test_session_saved_and_killed_restored_with_every_part(shell: Shell) -> None:
    started, talker = prepared_session(shell)
    saved = shell.ckpt("save", started["kernel_id"], "--name", "whole session")
    assert check(talker) == EXPECTED, "the session goes on undisturbed after a save"
    talker.close()
    shell.ckpt("stop", started["kernel_id"])
    assert shell.ckpt("ps") == []

    restored = shell.ckpt("restore", saved["id"], "--no-server")

    assert restored["kernel_id"] == started["kernel_id"]
    talker = Talker(restored["connection_file"])
    assert check(talker) == EXPECTED
    assert talker.run("len(In)") == "4", "execution counts continue"
    talker.close()
    assert [row["state"] for row in shell.ckpt("ps")] == ["running"]
    assert saved["mode"] == shell.mode
    assert len(saved["processes"]) == 4


def test_running_cell_saved_midway_finishes_by_itself(shell: Shell) -> None:
    started = shell.start()
    talker = Talker(started["connection_file"])
    cell = talker.begin(
        "import os, time\ntotal = 0\nfor i in range(60):\n"
        "    while i == 10 and not os.path.exists('go'): time.sleep(0.05)\n"
        "    total += i * i; print(f'step {i};', flush=True); time.sleep(0.1)\n"
        "print(f'sum {total}!')")
    talker.collect(cell, lambda text: "step 5;" in text)
    saved = shell.ckpt("save", started["kernel_id"])
    talker.close()
    shell.ckpt("stop", started["kernel_id"])
    assert saved["kernel"]["busy"] is True
    assert saved["kernel"]["running"]["msg_id"] == cell

    restored = shell.ckpt("restore", saved["id"], "--no-server")

    talker = Talker(restored["connection_file"], wait=False)
    (shell.home / "go").touch()
    text = talker.collect(cell, lambda text: "!\n" in text)
    assert text.endswith(f"sum {sum(i * i for i in range(60))}!\n")
    assert "step 59;" in text
    talker.close()


def test_history_database_shared_by_kernels_never_blocks_nor_warns(shell: Shell) -> None:
    started, talker = prepared_session(shell)
    saved = shell.ckpt("save", started["kernel_id"])
    for n in range(20):
        talker.run(f"later = {n}")
    talker.close()
    shell.ckpt("stop", started["kernel_id"])
    restored = shell.ckpt("restore", saved["id"], "--no-server")
    talker = Talker(restored["connection_file"])
    printed = [talker.run(f"print('cell {n}')") for n in range(3)]
    assert printed == ["cell 0", "cell 1", "cell 2"]
    talker.close()


@pytest.mark.timeout(900)
def test_twenty_restores_in_a_row_keep_every_part(root_shell: Shell) -> None:
    started, talker = prepared_session(root_shell)
    expected = dict(EXPECTED)
    generator, log = 5, "before the checkpoint;"
    for turn in range(20):
        saved = root_shell.ckpt("save", started["kernel_id"])
        talker.close()
        root_shell.ckpt("stop", started["kernel_id"])
        restored = root_shell.ckpt("restore", saved["id"], "--no-server")
        talker = Talker(restored["connection_file"])
        log += "after;"
        expected |= {"generator": generator**2, "child": f"{turn + 1} one", "file": log,
                     "closure": turn + 2}
        generator += 1
        assert check(talker) == expected, f"after restore {turn + 1}"
    talker.close()


def test_forks_and_original_run_side_by_side_independently(root_shell: Shell) -> None:
    started, talker = prepared_session(root_shell)
    copies = root_shell.ckpt("fork", started["kernel_id"], "-n", "2")
    talkers = [talker, *(Talker(copy["connection_file"]) for copy in copies)]
    assert len({row["pid"] for row in root_shell.ckpt("ps")}) == 3
    assert root_shell.ckpt("list", started["kernel_id"])[0]["purpose"] == "fork"
    for number, each in enumerate(talkers):
        each.run(f"data[0] = {number}; counter()")
    assert [each.run("print(data[0], ask('x'))") for each in talkers] == [
        "0.0 1 x", "1.0 1 x", "2.0 1 x"]
    os.kill(root_shell.ckpt("ps")[0]["pid"], signal.SIGKILL)
    alive = [row["kernel_id"] for row in root_shell.ckpt("ps")]
    assert len(alive) == 2
    for each in talkers:
        each.close()


def test_copies_leave_the_notebook_to_the_original(root_shell: Shell) -> None:
    notebook = root_shell.home / "job.ipynb"
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    started = root_shell.ckpt("start", "--notebook", str(notebook))
    (copy,) = root_shell.ckpt("fork", str(notebook))
    owners = {row["kernel_id"]: row["notebook"] for row in root_shell.ckpt("ps")}
    assert owners == {started["kernel_id"]: str(notebook), copy["kernel_id"]: None}
    found = root_shell.ckpt("schedule", str(notebook), "--every", "1h")
    assert found["kernel_id"] == started["kernel_id"]
    assert root_shell.ckpt("save", copy["kernel_id"])["notebook"] is None
    assert root_shell.ckpt("stop", str(notebook)) == {"stopped": started["kernel_id"]}


def test_a_kernel_is_saved_into_the_store_of_its_own_agent(root_shell: Shell) -> None:
    own = root_shell.home / "own store"
    started = root_shell.ckpt("start", "--store", str(own))
    saved = root_shell.ckpt("save")
    record = read_record(root_shell.home / "runtime" / "ckpt" / started["kernel_id"])
    assert record.agent is not None
    os.kill(record.agent.pid, signal.SIGKILL)
    again = root_shell.ckpt("save", "--name", "by the next agent")
    (copy,) = root_shell.ckpt("fork", started["kernel_id"])
    listed = [m["id"] for m in root_shell.ckpt("list", "--store", str(own))]
    assert listed[1:] == [again["id"], saved["id"]]
    assert copy["kernel_id"] != started["kernel_id"]
    assert root_shell.ckpt("list") == []
    named = root_shell.home / "named"
    elsewhere = root_shell.ckpt("save", started["kernel_id"], "--store", str(named))
    assert [m["id"] for m in root_shell.ckpt("list", "--store", str(named))] == [elsewhere["id"]]


def test_several_kernels_used_at_once_come_back_each_as_itself(shell: Shell) -> None:
    kernels = [shell.start() for _ in range(3)]
    talkers = [Talker(k["connection_file"]) for k in kernels]
    for number, talker in enumerate(talkers):
        talker.run(f"import subprocess\nme = {number}\nchild = subprocess.Popen(['cat'], "
                   "stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)")
    with ThreadPoolExecutor() as threads:
        saved = list(threads.map(lambda k: shell.ckpt("save", k["kernel_id"]), kernels))
    for kernel, talker in zip(kernels, talkers):
        talker.run("me = 'changed'")
        talker.close()
        shell.ckpt("stop", kernel["kernel_id"])
    with ThreadPoolExecutor() as threads:
        restored = list(threads.map(
            lambda m: shell.ckpt("restore", m["id"], "--no-server"), saved))
    for number, each in enumerate(restored):
        talker = Talker(each["connection_file"])
        answer = talker.run("print(me, child.communicate('hello')[0])")
        assert answer == f"{number} hello"
        talker.close()


def test_shared_pages_of_a_pool_are_stored_once(root_shell: Shell) -> None:
    started, talker = prepared_session(root_shell)
    talker.run("pool.shutdown(); import multiprocessing as mp\n"
               "shared = np.random.default_rng(0).random(8_000_000)\n"
               "forked = mp.get_context('fork').Pool(3); print(forked.map(abs, [-1]))")
    saved = root_shell.ckpt("save", started["kernel_id"])
    assert saved["memory_bytes"] > 4 * 64_000_000, "four processes hold the array"
    assert saved["stored_bytes"] < 1.7 * 64_000_000, "and it is stored once"
    talker.run("shared[:1000] = 0")
    second = root_shell.ckpt("save", started["kernel_id"])
    assert second["stored_bytes"] < 0.25 * saved["stored_bytes"]
    talker.close()


def test_restore_moves_ports_that_another_process_took(root_shell: Shell) -> None:
    started, talker = prepared_session(root_shell)
    saved = root_shell.ckpt("save", started["kernel_id"])
    talker.close()
    old_port = talker.client.shell_port
    root_shell.ckpt("stop", started["kernel_id"])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", old_port))
        squatter.listen()
        restored = root_shell.ckpt("restore", saved["id"], "--no-server")
        talker = Talker(restored["connection_file"])
        assert talker.client.shell_port != old_port
        assert check(talker) == EXPECTED
    root_shell.ckpt("restore", saved["id"], "--in-place", "--no-server")
    talker.wait_until_ready()
    assert check(talker) == EXPECTED, "where it is now it stays, also when the old ports are free"
    talker.close()


def test_copies_restored_at_the_same_time_are_each_whole(root_shell: Shell) -> None:
    started, talker = prepared_session(root_shell)
    saved = root_shell.ckpt("save", started["kernel_id"])
    talker.close()
    root_shell.ckpt("stop", started["kernel_id"])
    with ThreadPoolExecutor(3) as pool:
        copies = list(pool.map(lambda _: root_shell.ckpt(
            "restore", saved["id"], "--new", "--no-server"), range(3)))
    talkers = [Talker(copy["connection_file"]) for copy in copies]
    assert len({talker.client.shell_port for talker in talkers}) == 3
    for talker in talkers:
        assert check(talker) == EXPECTED
        talker.close()


def test_restore_in_place_brings_the_old_values_back_and_can_be_undone(shell: Shell) -> None:
    started, talker = prepared_session(shell)
    saved = shell.ckpt("save", started["kernel_id"])
    talker.run("data = None; later = 'made after the checkpoint'")
    restored = shell.ckpt("restore", saved["id"], "--in-place", "--no-server")
    assert restored["kernel_id"] == started["kernel_id"]
    talker.wait_until_ready()
    assert check(talker) == EXPECTED, "the same connection goes on"
    undo = shell.ckpt("list")[0]
    shell.ckpt("restore", undo["id"], "--in-place", "--no-server")
    talker.wait_until_ready()
    assert talker.run("print(data, later)") == "None made after the checkpoint"
    talker.close()


def test_files_written_since_are_put_back_with_a_backup(shell: Shell) -> None:
    started, talker = prepared_session(shell)
    saved = shell.ckpt("save", started["kernel_id"])
    talker.run("log.write('written later;'); log.flush()")
    talker.close()
    shell.ckpt("stop", started["kernel_id"])
    path = shell.home / "log.txt"
    assert path.read_text() == "before the checkpoint;written later;"

    code, error = shell.refused("restore", saved["id"], "--no-server", "--files", "abort")
    assert (code, str(path) in error["message"]) == (6, True)
    assert path.read_text() == "before the checkpoint;written later;"

    restored = shell.ckpt("restore", saved["id"], "--no-server")
    assert path.read_text() == "before the checkpoint;"
    backups = list(shell.home.glob("log.txt.before-restore-*"))
    assert [b.read_text() for b in backups] == ["before the checkpoint;written later;"]
    assert any(str(backups[0]) in warning for warning in restored["warnings"])
    shell.ckpt("stop", restored["kernel_id"])

    path.write_text("another content altogether, and longer")
    restored = shell.ckpt("restore", saved["id"], "--no-server", "--files", "keep")
    assert path.read_text() == "another content altogether, and longer"
    assert any("log.txt" in warning for warning in restored["warnings"])


def test_kernel_keeps_the_umask_of_whoever_started_it(shell: Shell) -> None:
    started = shell.start()
    talker = Talker(started["connection_file"])
    assert talker.run("import os; print(oct(os.umask(0)))") == oct(own_umask())
    talker.close()


def test_kernel_saved_while_it_starts_is_waited_for(root_shell: Shell) -> None:
    started = root_shell.start()
    saved = root_shell.ckpt("save", started["kernel_id"])
    assert saved["warnings"] == []
    assert saved["kernel"]["execution_count"] == 0
