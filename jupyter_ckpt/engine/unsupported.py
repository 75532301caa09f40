"""The one list of what cannot be saved: kinds, words, advice, modes.

`preflight` looks for these things, ``docs/reference/what-cannot-be-saved.md``
is written from them, and `tests/test_preflight.py` tries each with CRIU itself
in root and rootless mode, except for the few it names (no hardware for them).
"""

from __future__ import annotations

from dataclasses import dataclass

ALL_MODES = frozenset({"root", "rootless", "caps"})
UNPRIVILEGED = frozenset({"rootless", "caps"})


@dataclass(frozen=True)
class Unsupported:
    """One kind: ``what`` a process does ("process 7 (python) ..."), {0} is its subject.

    In ``advice`` {end} stands for how to end the process, {pid} for its pid.
    """

    what: str
    advice: str
    modes: frozenset[str] = ALL_MODES
    passes: bool = False
    """Whether it is soon over by itself, unless something is amiss."""

    def advise(self, subject: str, end: str, pid: int | str) -> str:
        """Return the advice; `end` tells how to end the process, beginning in lower case."""
        return self.advice.format(subject, end=end, End=end[0].upper() + end[1:], pid=pid)


_ACCEPTED = "Save again in a moment: it goes once it is accepted. Or close the listening socket, or"

UNSUPPORTED: dict[str, Unsupported] = {
    # descriptors
    "io-uring": Unsupported(
        "uses io_uring", "Close the ring (for uvloop: use asyncio's own loop)."),
    "userfaultfd": Unsupported(
        "uses userfaultfd", "End what uses it."),
    "anonymous": Unsupported(
        "has a kernel object of the kind '{0}' open",
        "Close it, or {end}."),
    "gpu": Unsupported(
        "has the graphics processor {0} open",
        "Move the data to main memory and {end}, or do GPU work in a "
        "process that can be ended."),
    "device": Unsupported(
        "has the device {0} open", "Close it, or {end}."),
    "socket": Unsupported(
        "has a {0} socket open", "Close it, or {end}."),
    "unix-connection": Unsupported(
        "is connected to {0} outside of the session through a unix socket",
        "Close that connection, or {end}."),
    "unix-datagram": Unsupported(
        "is connected to {0} outside of the session through a unix datagram socket",
        "Close it (for logging: remove the SysLogHandler)."),
    "unix-backlog": Unsupported(
        "has not accepted a connection to its unix socket {0}, which holds data or is closed "
        "already",
        f"{_ACCEPTED} {{end}}.", passes=True),
    "tcp-backlog": Unsupported(
        "has not accepted a connection to its port {0}",
        f"{_ACCEPTED} {{end}}.", passes=True),
    "inotify": Unsupported(
        "watches files with inotify", "Stop the watcher, or use root mode.", UNPRIVILEGED),
    "fanotify": Unsupported(
        "watches files with fanotify", "Stop the watcher, or use root mode.", UNPRIVILEGED),
    "outer-pidfd": Unsupported(
        "holds a descriptor of a process outside of the session", "Close it."),
    "deleted-file": Unsupported(
        "has the deleted file {0} open, which is larger than 1 GiB",
        "Close it, or write it where it keeps its name."),
    "unlinked-file": Unsupported(
        "has {0} open, which was deleted or replaced there and has another name (a hard link)",
        "Close it, or {end}."),
    "secret-memory": Unsupported(
        "uses secret memory (memfd_secret)", "Close and unmap it."),
    "outer-file": Unsupported(
        "has {0} open, which is on no file system that the session sees", "Close it."),
    "inner-mount": Unsupported(
        "has {0} open, which is on a file system mounted inside the session",
        "Close it, and mount that file system outside of the session."),
    # mappings
    "sysv-shared-memory": Unsupported(
        "uses System V shared memory",
        "Detach it; use POSIX shared memory (multiprocessing.shared_memory) instead."),
    "gpu-memory": Unsupported(
        "has memory of the graphics processor {0} mapped",
        "{End}, or do GPU work in a process that can be ended."),
    "device-memory": Unsupported(
        "has memory of the device {0} mapped", "Unmap it, or {end}."),
    "aio": Unsupported(
        "uses Linux asynchronous I/O (io_setup)", "End what uses it, or use root mode.",
        UNPRIVILEGED),
    "deleted-mapping": Unsupported(
        "runs or maps {0}, which was deleted or replaced since",
        "Bring the session's programs and libraries up to date by restarting it after an "
        "installation, or {end}; root mode can save it unless it has another name (a hard link).",
        UNPRIVILEGED),
    # CRIU's --link-remap would have it, but puts names of its own beside the user's files,
    # and takes them away again when the session goes on: no restore would find them.
    "unlinked-mapping": Unsupported(
        "runs or maps {0}, which was deleted or replaced since and has another name (a hard "
        "link, as in the caches of uv and conda)",
        "Bring the session's programs and libraries up to date by restarting it after an "
        "installation, or {end}."),
    "uprobes": Unsupported("is watched by a uprobe", "End the tracing program."),
    # the process itself
    "traced": Unsupported(
        "is traced by {0}", "Detach the debugger or tracer (gdb, strace, py-spy)."),
    # CRIU could save it, but it cannot prepare, nor be told after a restore who it is,
    # and nobody accepts the connections to its ports meanwhile.
    "stopped": Unsupported(
        "is stopped (SIGSTOP)", "Let it go on: kill -CONT {pid}."),
    "stuck": Unsupported(
        "waits for a disk or a network file system that does not answer",
        "Wait until that file system answers."),
    "dead-leader": Unsupported(
        "goes on in threads after its main thread has ended",
        "{End}."),
    "memory-program": Unsupported(
        "runs a program that is in memory only (memfd)", "{End}."),
    "deadline-scheduling": Unsupported(
        "is scheduled by deadlines (SCHED_DEADLINE)", "Give it ordinary scheduling (chrt)."),
    "seccomp": Unsupported(
        "is confined by seccomp", "{End}, or use root mode.",
        UNPRIVILEGED),
    "namespace": Unsupported(
        "is in a {0} namespace of its own (a sandbox or container)",
        "{End}, or start it without its sandbox (for Chromium: "
        "--no-sandbox)."),
    "other-user": Unsupported(
        "runs as another user, and this machine denies the privilege CAP_SYS_RESOURCE",
        "{End}.", frozenset({"root"})),
}
