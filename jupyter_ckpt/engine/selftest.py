"""Judge a CRIU by what counts: a real process, saved, ended and brought back.

``criu check`` passes on systems where every restore fails, and fails on some
where all works. So a tiny process that counts into a file is dumped, restored
in a fresh box, and must go on with the very next number. Takes half a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CriuBroken
from ..native_build import native_path
from ..procfs import ProcessId, descendants
from .criulog import cause

ROOT_PID = 100
STEP_TIMEOUT_S = 60.0
COUNT_DEADLINE_S = 20.0
POLL_S = 0.005
PID_RETRY_S = 5.0
HINT = "Run `jupyter ckpt setup` for a CRIU that works, then `jupyter ckpt doctor`."

_COUNTER = """\
import time
number = 0
while True:
    number += 1
    print(number, flush=True)
    time.sleep(0.002)
"""


@dataclass(frozen=True)
class SelfTest:
    """What a passed self-test measured."""

    mode: str
    dump_s: float
    restore_s: float

    def to_dict(self) -> dict[str, str | float]:
        return {"mode": self.mode, "dump_s": round(self.dump_s, 3),
                "restore_s": round(self.restore_s, 3)}


def selftest(criu: Path, mode: str) -> SelfTest:
    """Dump and restore a tiny process with `criu` in privilege mode `mode`.

    `mode` is ``root``, ``rootless`` or ``caps``. Raises `CriuBroken` with the
    cause, or `NativeMissing`; nothing of the test remains in any case.
    """
    with tempfile.TemporaryDirectory(prefix="ckpt-selftest-") as folder:
        trial = _Trial(criu, mode, native_path("ckpt-box"), Path(folder))
        try:
            return trial.run()
        finally:
            trial.clean_up()


class _Trial:
    """One self-test: the processes it started and the folder it works in."""

    def __init__(self, criu: Path, mode: str, box: Path, folder: Path) -> None:
        self._criu, self._mode, self._box = criu, mode, box
        self._log = folder / "count.log"
        self._images = folder / "images"
        self._images.mkdir()
        self._started: list[ProcessId] = []

    def run(self) -> SelfTest:
        inside, pid = self._start_counter()
        self._wait_for_count(1)
        # A box ends with its dump root, and would take criu along: so not killed
        # by the dump there, but stopped, lest it count on.
        leave = [] if self._mode == "caps" else ["--leave-stopped"]
        dump_s = self._criu_act("dump", inside, "-t", str(pid), *leave)
        self.clean_up()
        # Read when nothing runs any more: only a restore can make it grow again.
        before = self._last()
        after = _as_is if self._mode == "caps" else self._enter(self._new_box())
        return SelfTest(self._mode, dump_s, self._restore(before, after))

    def _restore(self, before: int, inside: Callable[[Sequence[str]], list[str]]) -> float:
        pidfile = self._images / "root.pid"
        seconds = self._criu_act("restore", inside, "-d", "--pidfile", str(pidfile))
        if self._mode == "caps":
            self._note(int(pidfile.read_text(encoding="ascii")))
        self._wait_for_count(before + 1)
        numbers = [int(line) for line in self._log.read_text(encoding="ascii").split()]
        if numbers != list(range(1, len(numbers) + 1)):
            raise self._broken("the restored process did not go on where it was saved")
        return seconds

    def _start_counter(self) -> tuple[Callable[[Sequence[str]], list[str]], int]:
        counter = [str(self._box), "root", "--", sys.executable, "-I", "-S", "-c", _COUNTER]
        if self._mode == "caps":
            told = self._call([str(self._box), "detach", str(self._log), "--", *counter])
            self._note(int(told))
            return _as_is, int(told)
        init = self._new_box()
        self._call([str(self._box), "enter", str(init), "--detach", str(self._log), "--", *counter])
        return self._enter(init), ROOT_PID

    def _new_box(self) -> int:
        user = ["--user"] if self._mode == "rootless" else []
        # Helpers that enter must not take the pids that a restore needs.
        told = self._call([str(self._box), "init", "--pid-floor", str(ROOT_PID + 100), *user])
        self._note(int(told))
        return int(told)

    def _enter(self, init: int) -> Callable[[Sequence[str]], list[str]]:
        return lambda command: [str(self._box), "enter", str(init), "--caps", "--", *command]

    def _note(self, pid: int) -> None:
        identity = ProcessId.of(pid)
        if identity is not None:
            self._started.append(identity)

    def _call(self, command: Sequence[str]) -> str:
        """Run a step of the test's own; raises `CriuBroken` when it fails."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False,
                stdin=subprocess.DEVNULL, timeout=STEP_TIMEOUT_S, start_new_session=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._broken(str(error)) from error
        if done.returncode != 0:
            raise self._broken(done.stderr.strip().removeprefix("ckpt-box: "))
        return done.stdout.strip()

    def _criu_act(
        self, verb: str, inside: Callable[[Sequence[str]], list[str]], *options: str
    ) -> float:
        """Run ``criu dump`` or ``restore``; return its seconds."""
        privilege = (["--tcp-established", "--network-lock", "skip"] if self._mode == "root"
                     else ["--unprivileged", "--tcp-close"])
        command = inside([
            str(self._criu), verb, "-D", str(self._images), "-o", f"{verb}.log", "-v2",
            "--file-locks", "--manage-cgroups=ignore", *privilege, *options])
        started = time.monotonic()
        while (said := self._criu_once(command)) is not None:
            sentence, _hint = cause(self._images / f"{verb}.log")
            # A killed process keeps its pid until its new parent reaps it.
            if "is taken by another" in sentence and time.monotonic() - started < PID_RETRY_S:
                time.sleep(POLL_S)
                continue
            raise self._broken(
                f"its {verb} failed: {said if 'without naming' in sentence and said else sentence}")
        return time.monotonic() - started

    def _criu_once(self, command: Sequence[str]) -> str | None:
        """Return None when criu succeeded, else what it last said on stderr."""
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace", timeout=STEP_TIMEOUT_S,
                check=False, cwd="/", start_new_session=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._broken(str(error)) from error
        lines = done.stderr.strip().splitlines()
        return None if done.returncode == 0 else (lines[-1] if lines else "")

    def _last(self) -> int:
        words = self._log.read_text(encoding="ascii").split() if self._log.exists() else []
        return int(words[-1]) if words else 0

    def _wait_for_count(self, number: int) -> None:
        deadline = time.monotonic() + COUNT_DEADLINE_S
        while self._last() < number:
            if time.monotonic() > deadline:
                raise self._broken("the test process does not run")
            time.sleep(POLL_S)

    def _broken(self, reason: str) -> CriuBroken:
        return CriuBroken(
            f"{self._criu} failed to save and restore a test process in {self._mode} mode: "
            f"{reason.rstrip('.')}.", HINT)

    def clean_up(self) -> None:
        """End every process of the test; a box ends with its PID 1."""
        found = [ProcessId.of(pid) for one in self._started if one.is_alive()
                 for pid in descendants(one.pid)]
        victims = [one for one in found if one is not None]
        # Children first: one that is stopped is continued when its parent dies, and
        # counts on where SIGHUP is ignored (nohup).
        for victim in reversed(victims):
            with contextlib.suppress(ProcessLookupError):  # its box may have ended it
                os.kill(victim.pid, signal.SIGKILL)
        deadline = time.monotonic() + PID_RETRY_S
        while any(one.is_alive() for one in victims):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        self._started.clear()


def _as_is(command: Sequence[str]) -> list[str]:
    return list(command)
