"""kill -9 of criu at any moment of a save: no process of the session suffers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt.agent.tools import criu_mark
from jupyter_ckpt.procfs import all_pids, command_name

MODES = ["root", "rootless"]
MOST_S = 60.0
THREADS, CHILDREN = 20, 3

SETUP = f"""
import os, select, subprocess, sys, threading, time
n, ticks, condition, reader = 0, [0] * {THREADS}, threading.Condition(), os.pipe()[0]
def rest(k):
    if k % 4 == 0: time.sleep(0.003)
    if k % 4 == 1: select.select([reader], [], [], 0.003)
    if k % 4 == 2: sum(i * 0.5 for i in range(3000))
    if k % 4 == 3:
        with condition: condition.wait(0.003)
def count(k):
    while True:
        ticks[k] += 1
        rest(k)
for k in range({THREADS}):
    threading.Thread(target=count, args=(k,), daemon=True).start()
children = [subprocess.Popen(
    [sys.executable, "-uIS", "-c", "for i, line in enumerate(open(0)): print(i, line.strip())"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range({CHILDREN})]
def ask(child):
    child.stdin.write("on\\n"); child.stdin.flush()
    return child.stdout.readline().strip()
def state():
    global n
    before, deadline = list(ticks), time.monotonic() + {MOST_S / 2}
    while not all(now > then for now, then in zip(ticks, before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    advanced = all(now > then for now, then in zip(ticks, before))
    answers, n = [ask(child) for child in children], n + 1
    memfds = sum("/memfd:" in line for line in open("/proc/self/maps"))
    return n, advanced, answers, memfds
print("ready")
"""


@pytest.fixture(params=MODES)
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    with shell_in(request.param) as found:
        yield found


class Session:
    """A kernel with threads and children that count, and what each look must show."""

    def __init__(self, shell: Shell) -> None:
        started = shell.start()
        self.id = started["kernel_id"]
        self._talker = Talker(started["connection_file"])
        assert self._talker.run(SETUP) == "ready"
        self._looks = 0
        self._first = self._look()

    def _look(self) -> tuple[Any, ...]:
        self._looks += 1
        found = eval(self._talker.run("print(state())"))
        assert found[:3] == (self._looks, True, [f"{self._looks - 1} on"] * CHILDREN)
        return found[3:]

    def assert_unharmed(self) -> None:
        """All of it goes on, also our connection, and nothing was left in the process."""
        assert self._look() == self._first

    def close(self) -> None:
        self._talker.close()


class Killer:
    """Kills the next criu that dumps `kernel_id` when `moment` holds for its pid."""

    def __init__(self, kernel_id: str, moment: Callable[[int], bool]) -> None:
        self._mark, self._moment = criu_mark(kernel_id), moment
        self.struck = False
        self._over = False
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def _watch(self) -> None:
        while not self._over:
            for pid in all_pids():  # also of another user
                if command_name(pid) == "criu" and self._mark in command_line(pid):
                    self._strike(pid)
                    return

    def _strike(self, pid: int) -> None:
        with suppress(OSError, ValueError):  # it has ended before its moment came
            while not self._over and not self._moment(pid):
                pass
            if not self._over:
                os.kill(pid, signal.SIGKILL)
                self.struck = True


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def images_of(pid: int) -> Path:
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return Path(argv[argv.index("-D") + 1])


def has_written(files: int) -> Callable[[int], bool]:
    """The moment at which criu has made so many files."""
    return lambda pid: len(os.listdir(images_of(pid))) >= files


def test_criu_killed_at_many_moments_and_the_session_goes_on(shell: Shell) -> None:
    session = Session(shell)
    struck = 0
    moments = [has_written(files) for files in (0, 1, 2, 5, 9, 14, 20, 25, 30, 35, 40, 45, 50)]
    for moment in moments:
        with Killer(session.id, moment) as killer:
            code, found = shell.outcome("save", session.id)
        if killer.struck:
            struck += 1
            assert code == 5 or "id" in found, found
        session.assert_unharmed()
    assert struck >= len(moments) // 2
    saved = shell.ckpt("save", session.id)
    session.assert_unharmed()
    session.close()
    restored = shell.ckpt("restore", saved["id"], "--in-place")
    talker = Talker(restored["connection_file"])
    assert eval(talker.run("print(state())"))[1] is True
    # A restored tree has a time namespace, which criu looks at in a child of its own.
    with Killer(session.id, lambda pid: False):
        assert shell.ckpt("save", session.id)["id"] != saved["id"]
    assert eval(talker.run("print(state())"))[1] is True
    talker.close()
