"""The processes of one criu run: found by what they were started with, and helped along.

Whoever starts criu may die, and criu goes on: so they are looked for in /proc,
by the folder of the run, which all of their command lines name.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..procfs import (
    ProcessId,
    all_pids,
    command_name,
    descendants,
    stat_fields,
    status_lines,
    threads_of,
)

log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
STILL_TOLD_AFTER_S = 5.0
"""A criu that used no processor for so long is told of."""
GIVEN_UP_AFTER_S = 60.0
"""And one that traces nobody is killed then. Its own tracer puts the tree back and lets it go."""
CRIU = "criu"
PROGRAMS = (CRIU, "ckpt-box", "ckpt-notify", "ckpt-tracer")
"""What takes part in a run; who else names its folder (a `tail` of the log) only looks on."""

Tell = Callable[[str], None]


def nobody(text: str) -> None:
    """Tell nobody."""


def holders(*marks: str) -> list[ProcessId]:
    """Return the living processes of a run of criu whose command line holds one of `marks`.

    They are `PROGRAMS`, or a criu that goes by another name, and belong to this user or root.
    """
    wanted, found = [mark.encode() for mark in marks], []
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                text = cmdline.read()
        except OSError:
            continue
        if not any(mark in text for mark in wanted) or not _takes_part(pid, text):
            continue
        identity = ProcessId.of(pid)
        if identity is not None and pid != os.getpid():
            found.append(identity)
    return found


def _takes_part(pid: int, command: bytes) -> bool:
    status = status_lines(pid)
    user = status.get("Uid", "").split()[1:2]
    if user not in (["0"], [str(os.geteuid())]):
        return False
    name = os.path.basename(os.fsdecode(command.split(b"\0")[0]))
    return _is_criu(command) or name in PROGRAMS or status.get("Name") in PROGRAMS


def _is_criu(command: bytes) -> bool:
    words = command.split(b"\0")
    # It may have been given any name: its own command line tells it.
    return (os.path.basename(os.fsdecode(words[0])) == CRIU
            or (words[1:2] in ([b"dump"], [b"restore"]) and b"-D" in words[2:]))


def _tracers() -> set[int]:
    """Return the processes that trace a task of anybody."""
    found = (status_lines(tid).get("TracerPid") for pid in all_pids() for tid in threads_of(pid))
    return {int(pid) for pid in found if pid}


class Watch:
    """Looks after the processes that `marks` name while somebody waits for them."""

    def __init__(self, *marks: str, tell: Tell = nobody) -> None:
        self._marks, self._tell = marks, tell
        self._seen: set[ProcessId] = set()
        self._ticks = -1
        self._moved_at = time.monotonic()
        self._told = False

    def look(self, may_rest: bool = False) -> list[ProcessId]:
        """Continue what was stopped, tell of what stands still; return who is there.

        With `may_rest` criu is waiting for us, and its standing still is no news.
        """
        # A process that is ending has no command line any more, but may still hold a tree.
        self._seen = {each for each in self._seen.union(holders(*self._marks)) if each.is_alive()}
        present = sorted(self._seen, key=lambda each: each.pid)
        ticks = 0
        for process in present:
            fields = stat_fields(process.pid)
            if fields is None:
                continue
            ticks += int(fields[11]) + int(fields[12])
            if fields[0] == "T":
                with suppress(OSError):
                    os.kill(process.pid, signal.SIGCONT)
        now = time.monotonic()
        if ticks != self._ticks or may_rest:
            self._ticks, self._moved_at = ticks, now
            if self._told:
                self._told = False
                self._tell("")
        elif now - self._moved_at >= STILL_TOLD_AFTER_S:
            self._told = True
            self._tell(self._sentence(present, now - self._moved_at))
            if now - self._moved_at >= GIVEN_UP_AFTER_S:
                self._end_idle(present)
        return present

    @staticmethod
    def _end_idle(present: list[ProcessId]) -> None:
        """Kill what of criu traces nobody, for its death harms nobody then.

        Such are a criu whose tracer is another process, and a child that a killed one left.
        """
        tracers = _tracers()
        for process in present:
            with suppress(OSError):
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                if process.pid not in tracers and _is_criu(command):
                    log.warning("criu (process %d) hangs and is killed; the session goes on",
                                process.pid)
                    os.kill(process.pid, signal.SIGKILL)

    @staticmethod
    def _sentence(present: list[ProcessId], still_s: float) -> str:
        for process in present:
            fields = stat_fields(process.pid)
            if fields is not None and command_name(process.pid) == "criu":
                return (f"criu has not moved for {still_s:.0f} s: its process {process.pid} "
                        f"is in state {fields[0]}")
        return f"criu has not moved for {still_s:.0f} s"


def await_end(watch: Watch, tell: Tell = nobody, deadline_s: float | None = None) -> bool:
    """Wait until nobody whom `watch` looks after lives; False when `deadline_s` passed first.

    None of them is killed: one may be the criu that holds a tree, and the tree
    runs again only when that ends by itself.
    """
    deadline = None if deadline_s is None else time.monotonic() + deadline_s
    pause_s = 0.005
    while present := watch.look():
        if deadline is not None and time.monotonic() > deadline:
            return False
        tell(f"waiting for an earlier criu (process {present[-1].pid}) to let the session go")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LOOK_EVERY_S)
    tell("")
    return True


def kill_all(mark: str, deadline_s: float = 10.0) -> None:
    """Kill every process that `mark` names, and its children.

    Only for a restore, which holds no living tree.
    """
    deadline = time.monotonic() + deadline_s
    found: set[ProcessId] = set()
    while time.monotonic() < deadline:
        # With what it has made of the tree, which has lost criu's command line already.
        tree = (pid for process in holders(mark) for pid in descendants(process.pid))
        found.update(each for each in map(ProcessId.of, tree) if each is not None)
        alive = [each for each in found if each.is_alive()]
        if not alive:
            return
        for process in alive:
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)
