"""What /proc tells about processes: identity, trees, namespaces.

A pid alone names nobody for long; `ProcessId` adds the start time, so that a
recycled pid is never mistaken for the process a record speaks of.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_PF_EXITING = 0x4
_KILLED = 1 << (9 - 1)


@dataclass(frozen=True)
class ProcessId:
    """A process of this boot: host pid and start time in clock ticks."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a living process, None when there is none.

        One whose first thread has ended while others run lives: it still has its
        memory, files and ports. Every killed process is like that for a moment.
        """
        fields = stat_fields(pid)
        if fields is None or (fields[0] in "ZX" and int(fields[17]) <= 1):
            return None
        return cls(pid, int(fields[19]))

    def age_s(self) -> float:
        """Return for how long the process runs, in seconds."""
        with open("/proc/uptime", encoding="ascii") as uptime:
            return float(uptime.read().split()[0]) - self.start_time / os.sysconf("SC_CLK_TCK")

    def is_alive(self) -> bool:
        """Tell whether this very process runs (a zombie does not)."""
        return ProcessId.of(self.pid) == self

    def is_ending(self) -> bool:
        """Tell whether this process is gone, exiting, or sure to: killed, but not there yet."""
        fields, status = stat_fields(self.pid), status_lines(self.pid)
        if fields is None or not status or not self.is_alive():
            return True
        pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        return bool(int(fields[6]) & _PF_EXITING or pending & _KILLED)

    def to_dict(self) -> dict[str, int]:
        return {"pid": self.pid, "start_time": self.start_time}

    @classmethod
    def from_dict(cls, data: Any) -> ProcessId | None:
        if not isinstance(data, dict):
            return None
        return cls(int(data["pid"]), int(data["start_time"]))


def stat_fields(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from the state on (proc(5) field 3 is index 0)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()
    except OSError:
        return None


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped (SIGSTOP and the like), not by a tracer."""
    fields = stat_fields(pid)
    return fields is not None and fields[0] == "T"


def status_lines(pid: int) -> dict[str, str]:
    """Return /proc/PID/status as a dict, empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
            pairs = (line.partition(":") for line in status)
            return {name: value.strip() for name, _, value in pairs}
    except OSError:
        return {}


def readable(handles: Iterable[int], timeout_s: float | None = None) -> set[int]:
    """Wait until some of the open descriptors are readable; return these (none: time is up).

    A pid descriptor is readable once its process has ended, a pipe also at its
    end. Not by select(2), which takes no descriptor above 1023: Jupyter servers
    may have more.
    """
    waiting = select.poll()
    for handle in handles:
        waiting.register(handle, select.POLLIN)
    return {handle for handle, _ in waiting.poll(None if timeout_s is None else timeout_s * 1000)}


def own_umask() -> int:
    """Return this process's umask, without changing it for a moment as os.umask would."""
    return int(status_lines(os.getpid()).get("Umask", "022"), 8)


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children_of_all() -> dict[int, list[int]]:
    """Return {ppid: [pid, ...]} of every process visible here."""
    found: dict[int, list[int]] = {}
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields is not None:
            found.setdefault(int(fields[1]), []).append(pid)
    return found


def descendants(pid: int) -> list[int]:
    """Return `pid` and every living descendant, parents before children."""
    children = children_of_all()
    found, pending = [], [pid]
    while pending:
        head = pending.pop(0)
        found.append(head)
        pending.extend(sorted(children.get(head, ())))
    return found


def threads_of(pid: int) -> list[int]:
    """Return the ids of a process's threads, its own among them; none when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def inner_pid(pid: int) -> int | None:
    """Return the pid that process `pid` has in its innermost namespace."""
    numbers = status_lines(pid).get("NSpid", "").split()
    return int(numbers[-1]) if numbers else None


def pids_in_box(init_pid: int) -> dict[int, int]:
    """Return {inner pid: host pid} of the pid namespace whose PID 1 is `init_pid`."""
    found: dict[int, int] = {}
    for pid in descendants(init_pid):
        inner = inner_pid(pid)
        if inner is not None:
            found[inner] = pid
    return found


def rss_bytes(pid: int) -> int:
    """Return the resident set of one process, 0 when it is gone."""
    value = status_lines(pid).get("VmRSS", "0 kB").split()[0]
    return int(value) * 1024


def command_name(pid: int) -> str:
    """Return a short human name: the command line's program, else comm."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            words = cmdline.read().split(b"\0")
        if words and words[0]:
            return os.path.basename(words[0].decode("utf-8", "replace"))
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "?"
