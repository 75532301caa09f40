"""What fails leaves everything as it was, and says in one sentence why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.procfs import ProcessId

COUNTER = """
import threading, time
ticks = 0
def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.005)
threading.Thread(target=count, daemon=True).start()
"""


@pytest.fixture
def shell() -> Iterator[Shell]:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as found:
        yield found


@pytest.fixture
def session(shell: Shell) -> Iterator[tuple[str, Talker]]:
    started = shell.start()
    talker = Talker(started["connection_file"])
    talker.run(COUNTER)
    yield started["kernel_id"], talker
    talker.close()


def wait_until(condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def assert_kernel_goes_on(talker: Talker) -> None:
    before = int(talker.run("print(ticks)"))
    assert int(talker.run("time.sleep(0.1); print(ticks)")) > before


def agent_pid(shell: Shell, kernel_id: str) -> int:
    record = json.loads((shell.home / "runtime" / "ckpt" / kernel_id / "record.json").read_text())
    return int(record["agent"]["pid"])


def leftovers(shell: Shell) -> list[str]:
    return [p.name for p in (shell.store / "work").glob("*")]


# -- saving -----------------------------------------------------------------------


def test_save_without_criu_says_so_and_kernel_goes_on(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    shell.criu.unlink()
    code, error = shell.refused("save", session[0])
    assert code == 4
    assert "criu" in error["message"].lower()
    assert error["hint"]
    assert shell.ckpt("list") == []
    assert_kernel_goes_on(session[1])


def test_save_with_broken_criu_fails_and_kernel_goes_on(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    shell.criu.unlink()
    shell.criu.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Version: 4.2.1' && exit\n"
                          "exit 1\n")
    shell.criu.chmod(0o755)
    code, error = shell.refused("save", session[0])
    assert code in (4, 5)
    assert error["message"].endswith(".")
    assert shell.ckpt("list") == []
    assert_kernel_goes_on(session[1])


def test_save_of_connection_to_outside_names_it_and_kernel_goes_on(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    path = str(shell.home / "outside.sock")
    with socket.socket(socket.AF_UNIX) as outside:
        outside.bind(path)
        outside.listen()
        session[1].run(f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r})")
        inside, _ = outside.accept()
        code, error = shell.refused("save", session[0])
        assert (code, error["id"]) == (5, "cannot-be-saved")
        assert "unix socket" in error["message"]
        assert "the kernel itself " in error["message"] and "(descriptor " in error["message"]
        assert shell.ckpt("list") == []
        assert_kernel_goes_on(session[1])
        session[1].run("s.close()")
        inside.close()
    shell.ckpt("save", session[0])


def test_store_that_sessions_cannot_see_is_refused(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        code, error = shell.refused("save", session[0], "--store", f"{folder}/store")
    assert (code, error["id"]) == (4, "store-unusable")
    assert "does not see the store" in error["message"]
    assert_kernel_goes_on(session[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_save_onto_full_disk_says_so_and_kernel_goes_on(shell: Shell) -> None:
    shell.store.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(shell.store)],
                   check=True)
    try:
        started = shell.start()
        talker = Talker(started["connection_file"])
        talker.run(COUNTER + "\nimport os; big = os.urandom(60_000_000)")
        code, error = shell.refused("save", started["kernel_id"])
        assert code == 5
        assert "full" in error["message"]
        assert shell.ckpt("list") == []
        wait_until(lambda: leftovers(shell) == [])
        assert_kernel_goes_on(talker)
        talker.close()
        shell.ckpt("stop", started["kernel_id"])
    finally:
        subprocess.run(["umount", "--lazy", str(shell.store)], check=True)


def test_save_refused_by_hook_leaves_no_checkpoint(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    session[1].run("ip = get_ipython()\n@ip.on_checkpoint\ndef never():\n"
                   "    raise ip.CheckpointRefused('the table is half written')")
    code, error = shell.refused("save", session[0])
    assert (code, error["id"]) == (5, "refused-by-hook")
    assert "half written" in error["message"]
    assert shell.ckpt("list") == []
    assert_kernel_goes_on(session[1])


def test_restore_over_a_state_that_cannot_be_saved_says_how_to_give_it_up(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    saved = shell.ckpt("save", session[0])
    session[1].run("ip = get_ipython()\n@ip.on_checkpoint\ndef never():\n"
                   "    raise ip.CheckpointRefused('the table is half written')")
    code, error = shell.refused("restore", saved["id"])
    assert (code, error["id"]) == (6, "restore-refused")
    assert "half written" in error["message"]
    assert f"jupyter ckpt stop {session[0]}" in error["hint"]
    assert_kernel_goes_on(session[1])
    shell.ckpt("stop", session[0])
    shell.ckpt("restore", saved["id"])


def test_name_that_exists_is_refused_before_anything_is_dumped(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    shell.ckpt("save", session[0], "--name", "trained")
    code, error = shell.refused("save", session[0], "--name", "trained")
    assert (code, error["id"]) == (2, "name-taken")
    assert len(shell.ckpt("list")) == 1


# -- deaths -----------------------------------------------------------------------


def test_killed_agent_is_replaced_and_kernel_never_notices(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    old = agent_pid(shell, session[0])
    os.kill(old, signal.SIGKILL)
    assert_kernel_goes_on(session[1])
    assert [row["state"] for row in shell.ckpt("ps")] == ["running"]
    assert agent_pid(shell, session[0]) != old
    shell.ckpt("save", session[0])
    assert session[1].run("c = get_ipython().checkpoint(); print(c.restored)").endswith("False")


def test_agent_killed_while_tree_is_frozen_thaws_it_and_the_next_one_saves_it(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    session[1].run("import os; big = os.urandom(400_000_000)")
    pid = agent_pid(shell, session[0])
    saving = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@"', "sh", *save_command(session[0])],
        env=shell.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list((shell.store / "work").glob("*/images/pages-*.img")))
    os.kill(pid, signal.SIGKILL)
    assert saving.wait(timeout=200) == 0
    assert_kernel_goes_on(session[1])
    assert len(shell.ckpt("list")) == 1
    wait_until(lambda: leftovers(shell) == [])  # the dead agent's half images, too


def save_command(kernel_id: str) -> list[str]:
    return [sys.executable, "-m", "jupyter_ckpt.cli.main", "save", kernel_id]


def test_killed_kernel_leaves_no_processes_no_record(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    session[1].run("import subprocess; subprocess.Popen(['sleep', '1000'])")
    (row,) = shell.ckpt("ps")
    record_folder = shell.home / "runtime" / "ckpt" / session[0]
    init = ProcessId.of(box_init(record_folder))
    os.kill(row["pid"], signal.SIGKILL)
    wait_until(lambda: not record_folder.exists())
    assert init is not None
    assert not init.is_alive()
    assert shell.ckpt("ps") == []


def box_init(folder: Path) -> int:
    return int(json.loads((folder / "record.json").read_text())["init"]["pid"])


# -- restoring --------------------------------------------------------------------


@pytest.fixture
def stopped(shell: Shell, session: tuple[str, Talker]) -> dict[str, Any]:
    """A checkpoint whose kernel has ended; it has a library of its own mapped."""
    library = shell.home / "own.so"
    shutil.copy(_a_library(), library)
    session[1].run(f"import ctypes; lib = ctypes.CDLL({str(library)!r})\n"
                   "import os; os.makedirs('deep/down'); os.chdir('deep/down')")
    saved: dict[str, Any] = shell.ckpt("save", session[0])
    shell.ckpt("stop", session[0])
    return saved


def _a_library() -> str:
    with open("/proc/self/maps") as maps:
        return next(line.split()[-1] for line in maps if "/libm.so" in line or "/libz.so" in line)


def refused_restore(shell: Shell, saved: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    code, error = shell.refused("restore", saved["id"], "--no-server")
    assert shell.ckpt("ps") == [], "nothing of a refused restore runs"
    assert error["message"].endswith(".")
    return code, error


def test_library_that_changed_is_named(shell: Shell, stopped: dict[str, Any]) -> None:
    library = shell.home / "own.so"
    data = bytearray(library.read_bytes())
    data[-1] ^= 1
    library.write_bytes(data)
    code, error = refused_restore(shell, stopped)
    assert (code, error["id"]) == (6, "restore-refused")
    assert str(library) in error["message"]


def test_library_reinstalled_with_same_content_is_fine(
    shell: Shell, stopped: dict[str, Any]
) -> None:
    library = shell.home / "own.so"
    copy = shell.home / "copy.so"
    shutil.copy(library, copy)
    copy.replace(library)
    shell.ckpt("restore", stopped["id"], "--no-server")


def test_library_that_is_missing_is_named(shell: Shell, stopped: dict[str, Any]) -> None:
    (shell.home / "own.so").unlink()
    code, error = refused_restore(shell, stopped)
    assert code == 6
    assert "own.so is missing" in error["message"]


def test_working_folder_that_is_gone_is_made_anew(shell: Shell, stopped: dict[str, Any]) -> None:
    shutil.rmtree(shell.home / "deep")
    restored = shell.ckpt("restore", stopped["id"], "--no-server")
    assert any("deep/down" in warning for warning in restored["warnings"])


def test_permissions_changed_since_do_not_matter(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    session[1].run("f = open('notes.txt', 'w'); f.write('a note'); f.flush()\n"
                   "g = open('notes.txt')")
    saved = shell.ckpt("save", session[0])
    shell.ckpt("stop", session[0])
    (shell.home / "notes.txt").chmod(0o444)
    restored = shell.ckpt("restore", saved["id"], "--no-server")
    talker = Talker(restored["connection_file"])
    assert talker.run("f.write('; more'); f.flush(); print(g.read())") == "a note; more"
    talker.close()


def test_altered_chunk_is_found_before_anything_starts(
    shell: Shell, stopped: dict[str, Any]
) -> None:
    chunks = sorted((shell.store / "chunks").glob("*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(chunks[-1].read_bytes())
    data[len(data) // 2] ^= 1
    chunks[-1].chmod(0o600)
    chunks[-1].write_bytes(data)
    assert refused_restore(shell, stopped)[0] == 7
    code, found = shell.outcome("verify")
    assert (code, found["bad"][0]["id"]) == (7, stopped["id"])


def test_altered_manifest_is_refused(shell: Shell, stopped: dict[str, Any]) -> None:
    (manifest,) = (shell.store / "manifests").glob("*.json")
    manifest.chmod(0o600)
    manifest.write_text(manifest.read_text().replace('"mode"', '"m0de"', 1))
    assert shell.refused("restore", stopped["id"], "--no-server")[0] == 7


def test_failed_restore_in_place_leaves_the_present_session(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    saved = shell.ckpt("save", session[0])
    session[1].run("later = 'still here'")
    # A restore that passes every check and then fails: its criu is gone.
    wrapper = shell.criu.with_name("criu.real")
    shell.criu.rename(wrapper)
    shell.criu.write_text(f'#!/bin/sh\n[ "$1" = restore ] && [ ! -e {shell.home}/failed ] && '
                          f'touch {shell.home}/failed && exit 1\nexec {wrapper} "$@"\n')
    shell.criu.chmod(0o755)
    code, error = shell.refused("restore", saved["id"], "--in-place", "--no-server")
    assert code == 6
    assert "as it was before" in error["message"]
    assert "doctor" in error["hint"]
    session[1].wait_until_ready()
    assert session[1].run("print(later)") == "still here"
    assert_kernel_goes_on(session[1])


def test_agent_killed_while_replacing_a_kernel_the_next_one_brings_it_back_and_replaces_it(
    shell: Shell, session: tuple[str, Talker]
) -> None:
    saved = shell.ckpt("save", session[0])
    session[1].run("later = 'not lost'")
    real = shell.criu.with_name("criu.real")
    shell.criu.rename(real)
    mark = shell.home / "restoring"
    shell.criu.write_text(f'#!/bin/sh\nif [ "$1" = restore ] && [ ! -e {mark} ]; then\n'
                          f'  touch {mark}; exec sleep 1000\nfi\nexec {real} "$@"\n')
    shell.criu.chmod(0o755)
    folder = shell.home / "runtime" / "ckpt" / session[0]
    restoring = subprocess.Popen(
        [sys.executable, "-m", "jupyter_ckpt.cli.main", "restore", saved["id"], "--in-place",
         "--no-server"],
        env=shell.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(mark.exists)
    half_filled = ProcessId.of(box_init(folder))
    os.kill(agent_pid(shell, session[0]), signal.SIGKILL)
    assert restoring.wait(timeout=200) == 0

    assert [row["kernel_id"] for row in shell.ckpt("ps")] == [session[0]]
    assert half_filled is not None
    assert not half_filled.is_alive(), "the box that was being filled is gone"
    session[1].wait_until_ready()
    assert "NameError" in session[1].run("print(later)"), "it is restored"
    # Each try saved the present state first; the second did when it was back again.
    newest, *_, oldest = shell.ckpt("list")
    assert oldest["id"] == saved["id"]
    assert_kernel_goes_on(session[1])
    session[1].run("later = 'later'")
    shell.ckpt("restore", newest["id"], "--in-place", "--no-server")
    session[1].wait_until_ready()
    assert session[1].run("print(later)") == "not lost", "so is what was there before"
