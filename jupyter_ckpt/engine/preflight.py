"""What CRIU could not save of a running tree, found before the tree is stopped.

Only /proc and sock_diag are read: nothing here stops, traces or asks a process.
What a tree holds may change until the freeze, so CRIU's own error (`criulog`)
stays the last word. `unsupported.UNSUPPORTED` is the list of what is looked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import CannotBeSaved
from ..procfs import command_name, descendants, stat_fields, status_lines
from .backlogs import unaccepted_tcp, unaccepted_unix
from .held import Surroundings, descriptor_kind, mapping_kinds, mount_points
from .unixpeers import UnixSocket, unix_sockets
from .unsupported import UNSUPPORTED

_NAMESPACES = {"pid_for_children": "process id", "user": "user", "net": "network", "mnt": "mount",
               "ipc": "System V IPC", "uts": "host name", "time": "time", "cgroup": "cgroup"}
_CAP_SYS_RESOURCE = 1 << 24
_SCHED_DEADLINE, _POLICY_FIELD = 6, 38
_SOCK_DGRAM = 2
_STUCK_S, _STUCK_POLL_S = 3.0, 0.02
_NAMED = 4
_END_IN_KERNEL = "end what uses it in the notebook, or restart the kernel"
PASSING_S, _PASSING_POLL_S = 2.0, 0.05


@dataclass(frozen=True)
class Finding:
    """One thing that cannot be saved.

    `pid` is as this process counts: whoever reads it is more often outside of the
    session than in it, and the session's own number is a stranger's there.
    """

    kind: str
    pid: int
    process: str
    where: str = ""
    subject: str = ""
    is_kernel: bool = False

    def __str__(self) -> str:
        what = UNSUPPORTED[self.kind].what.format(self.subject)
        where = f" ({self.where})" if self.where else ""
        who = "the kernel itself" if self.is_kernel else f"process {self.pid} ({self.process})"
        return f"{who} {what}{where}"

    @property
    def advice(self) -> str:
        end = (_END_IN_KERNEL if self.is_kernel
               else f"end process {self.pid} ({self.process})")
        return UNSUPPORTED[self.kind].advise(self.subject, end, self.pid)


def check_can_be_saved(
    root_pid: int, mode: str, ghost_limit_bytes: int, own_sockets: Sequence[str] = (),
    kernel_pid: int | None = None,
) -> None:
    """Raise `CannotBeSaved` naming all that stands in the way of a dump.

    ``root_pid`` is the tree's root as this process counts, ``kernel_pid`` the
    process that must be able to prepare, ``own_sockets`` are names of unix sockets
    that are closed before the freeze. Changes nothing. What passes by itself is
    waited for, up to `PASSING_S`.
    """
    deadline = time.monotonic() + PASSING_S
    while found := findings(root_pid, mode, ghost_limit_bytes, own_sockets, kernel_pid):
        if time.monotonic() >= deadline or not all(UNSUPPORTED[f.kind].passes for f in found):
            break
        time.sleep(_PASSING_POLL_S)
    else:
        return
    named = "; ".join(str(each) for each in found[:_NAMED])
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    advice = list(dict.fromkeys(each.advice for each in found))[:_NAMED]
    raise CannotBeSaved(f"The session cannot be saved as it is: {named}{more}.",
                        " ".join([*advice, "Then save again."]))


def findings(
    root_pid: int, mode: str, ghost_limit_bytes: int, own_sockets: Sequence[str] = (),
    kernel_pid: int | None = None,
) -> list[Finding]:
    """Return what of the tree below `root_pid` cannot be saved in `mode`, each once."""
    search = _Search(root_pid, ghost_limit_bytes, tuple(own_sockets), kernel_pid)
    return list(dict.fromkeys(
        each for each in search.run() if mode in UNSUPPORTED[each.kind].modes))


class _Search:
    """One look at all processes of a tree; those that end meanwhile are left out."""

    def __init__(self, root_pid: int, ghost_limit: int, own_sockets: tuple[str, ...],
                 kernel_pid: int | None) -> None:
        self.pids = descendants(root_pid)
        self.own_sockets = own_sockets
        self.root_pid, self.kernel_pid = root_pid, kernel_pid
        self.sockets: dict[int, tuple[int, str]] = {}
        """{inode: (pid, descriptor)} of the tree's sockets."""
        self.namespaces: dict[str, str] = {}
        mounts: dict[int, str] = {}
        with suppress(OSError):
            mounts = mount_points(f"/proc/{root_pid}")
        self.around = Surroundings(set(self.pids), ghost_limit, mounts,
                                   set(mount_points("/proc/self").values()))
        self.users = _users(os.getpid())
        own = int(status_lines(os.getpid()).get("CapEff", "0"), 16)
        self.may_limit_others = bool(own & _CAP_SYS_RESOURCE)

    def run(self) -> Iterator[Finding]:
        for pid in self.pids:
            for look in (self._status, self._program, self._descriptors, self._mappings):
                with suppress(OSError):
                    yield from look(pid)
        yield from self._backlogs()
        yield from self._outer_connections()

    def _found(self, kind: str, pid: int, where: str = "", subject: str = "") -> Finding:
        return Finding(kind, pid, command_name(pid), where, subject, pid == self.kernel_pid)

    def _status(self, pid: int) -> Iterator[Finding]:
        status, fields = status_lines(pid), stat_fields(pid)
        if fields is None or not status:
            return
        zombie = fields[0] in "ZX"
        if tracer := int(status.get("TracerPid", "0")):
            yield self._found("traced", pid, subject=f"process {tracer} ({command_name(tracer)})")
        if zombie and int(status.get("Threads", "1")) > 1:
            yield self._found("dead-leader", pid)
        if zombie:
            return
        if pid == self.kernel_pid and fields[0] == "T":
            yield self._found("stopped", pid)
        if status.get("Seccomp", "0") != "0":
            yield self._found("seccomp", pid)
        if int(fields[_POLICY_FIELD]) == _SCHED_DEADLINE:
            yield self._found("deadline-scheduling", pid)
        if status.get("Uid", "").split() != self.users and not self.may_limit_others:
            yield self._found("other-user", pid)
        if fields[0] == "D" and _is_stuck(pid):
            yield self._found("stuck", pid)

    def _program(self, pid: int) -> Iterator[Finding]:
        if os.readlink(f"/proc/{pid}/exe").startswith("/memfd:"):
            yield self._found("memory-program", pid)
        for name, word in _NAMESPACES.items():
            link = os.readlink(f"/proc/{pid}/ns/{name}")
            if self.namespaces.setdefault(name, link) != link:  # the first is the root's
                yield self._found("namespace", pid, subject=word)
                return

    def _descriptors(self, pid: int) -> Iterator[Finding]:
        process = f"/proc/{pid}"
        for number in os.listdir(f"{process}/fd"):
            with suppress(OSError):
                link = os.readlink(f"{process}/fd/{number}")
                if link.startswith("socket:"):
                    self.sockets.setdefault(int(link[8:-1]), (pid, number))
                found = descriptor_kind(process, number, link, self.around)
                if found is not None:
                    yield self._found(found[0], pid, f"descriptor {number}", found[1])

    def _mappings(self, pid: int) -> Iterator[Finding]:
        for address, (kind, subject) in mapping_kinds(f"/proc/{pid}"):
            yield self._found(kind, pid, f"mapping at 0x{address}", subject)

    def _backlogs(self) -> Iterator[Finding]:
        if self.sockets:
            for kind, inode, port in unaccepted_tcp(f"/proc/{self.root_pid}", self.sockets):
                yield self._at(inode, kind, port)

    def _outer_connections(self) -> Iterator[Finding]:
        """Yield unix sockets whose other end is not in the tree, or not accepted."""
        known = unix_sockets() if self.sockets else {}
        for kind, inode, name in unaccepted_unix(known, self.sockets):
            if kind == "unix-backlog" or not name.endswith(self.own_sockets):
                yield self._at(inode, kind, name or "a program")
        for inode in self.sockets:
            this = known.get(inode)
            if this is None or not this.peer or this.peer in self.sockets:
                continue
            name = _name(known.get(this.peer)) or this.name
            if name and name.endswith(self.own_sockets):
                continue
            kind = "unix-datagram" if this.kind == _SOCK_DGRAM else "unix-connection"
            yield self._at(inode, kind, name or "a program")

    def _at(self, inode: int, kind: str, subject: str) -> Finding:
        pid, number = self.sockets[inode]
        return self._found(kind, pid, f"descriptor {number}", subject)


def _name(other: UnixSocket | None) -> str:
    return other.name if other is not None else ""


def _users(pid: int) -> list[str]:
    return status_lines(pid).get("Uid", "").split()


def _is_stuck(pid: int) -> bool:
    """Wait a moment for a process that waits for a disk; tell whether it never went on."""
    def progress() -> tuple[str | None, ...]:
        status = status_lines(pid)
        return (status.get("voluntary_ctxt_switches"), status.get("nonvoluntary_ctxt_switches"))

    before, deadline = progress(), time.monotonic() + _STUCK_S
    while time.monotonic() < deadline:
        fields = stat_fields(pid)
        if fields is None or fields[0] != "D" or progress() != before:
            return False
        time.sleep(_STUCK_POLL_S)
    return True
