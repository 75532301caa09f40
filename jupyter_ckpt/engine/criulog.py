"""One sentence for a person out of CRIU's log.

The first error line is often a harmless one and the last a mere consequence,
so known causes are looked for first, and noise is dropped before guessing.
"""

from __future__ import annotations

import re
from pathlib import Path

MOST_CHARS = 400
"""Of a line: paths have room in it, and garbage does not fill a message."""
_NOISE = re.compile(
    r"RLIMIT_NOFILE|\bnet\.c:\d+|Dumping FAILED|Restoring FAILED|Can't get link"
    r"|exited with|killed by signal|returned non-zero|Unable to dump|Can't dump|uns: calls"
    r"|cr-restore\.c:\d+\): \d+ exited|cgroup|\(pid: \d+\) failed with"
)

CHANGED_SIZE = "changed its size since the checkpoint"

_HARMLESS = re.compile(
    r"RLIMIT_NOFILE|net\.c:\d+\): net: Unexpected error: -1\(Operation not permitted\)")
"""What CRIU always says without privileges: no cause of anything."""

# What CRIU says -> (what it means, what to do). \1 stands for the first group.
_CAUSES: list[tuple[re.Pattern[str], str, str]] = [
    (re.compile(r"File (.+?) has bad size"), f"The file {{0}} {CHANGED_SIZE}.",
     "Bring the file back as it was, or restore with --files keep or put-back."),
    (re.compile(r"File (.+?) has bad mode"),
     "The permissions of {0} are not what they were at the checkpoint.",
     "Give it its permissions back and restore again."),
    (re.compile(r"File (.+?) has bad build-ID|build-ID mismatch.*?(\S+)"),
     "The program or library {0} was replaced since the checkpoint.",
     "Reinstall the version the session used."),
    (re.compile(r"Can't open file (.+?) on restore|Can't open file (.+?):"),
     "The file {0} is missing or may not be opened.", "Bring the file back and restore again."),
    (re.compile(r"Can't (?:fork for|clone) (\d+): File exists|Pid (\d+) .*already"),
     "Process id {0} of the session is taken by another process.",
     "Wait until that process has ended, or restore after a reboot."),
    (re.compile(r"Can't bind inet socket.*?(?:id\s*\S+)?: Address already in use|"
                r"Can't bind inet socket back: Address already in use"),
     "A network port of the session is in use.",
     "Wait a minute (the system keeps closed ports for 60 s) and restore again."),
    (re.compile(r"io_uring|anon_inode:\[io_uring\]|send_fds failed \(-22\)"),
     "A process of the session uses io_uring, which cannot be saved.",
     "Close it (for uvloop: use asyncio's own loop) and save again."),
    (re.compile(r"Can't make VM id for (\d+)"),
     "Process {0} of the session is just being started and shares its parent's memory.",
     "Save again in a moment."),
    (re.compile(r"Can't dump nested (\w+) namespace for \d+|Can't make (\w+?)(?:ns)? id"),
     "A process of the session is in a {0} namespace of its own, which cannot be saved.",
     "End it, or start it without its sandbox, and save again."),
    (re.compile(r"Zombies with threads"),
     "The main thread of a process has ended while others run, which cannot be saved.",
     "End that process and save again."),
    (re.compile(r"pidfd pid (\d+) is not a part"),
     "A process of the session holds a descriptor of process {0} outside of it, "
     "which cannot be saved.", "Close it and save again."),
    (re.compile(r"Can't lookup mount=\d+ for fd=\d+ path=(\S+)"),
     "The session has {0} open, which is on no file system that it sees and cannot be saved.",
     "Close it and save again."),
    (re.compile(r"Can't open mapped \[/\[aio\]"),
     "A process of the session uses asynchronous I/O, which cannot be saved in this mode.",
     "End what uses it and save again."),
    (re.compile(r"Can't open mapped \[(.+?) \(deleted\)\]"),
     "A process of the session maps {0}, which was deleted or replaced since and "
     "cannot be saved in this mode.", "Restart what uses the file and save again."),
    (re.compile(r"Can't create link remap for (.+?)\. Use"),
     "A process of the session uses {0}, which lost that name and has another one (a hard link): "
     "it cannot be saved.", "Close it, or restart what uses it, and save again."),
    (re.compile(r"suspending seccomp failed"),
     "A process of the session is confined by seccomp, which cannot be saved in this mode.",
     "End it and save again."),
    (re.compile(r"Unsupported proto (\d+)|Unknown socket collected \((family \d+)\)"),
     "A process of the session has a socket of a kind ({0}) that cannot be saved.",
     "Close it and save again."),
    (re.compile(r"SysV|sysvipc|ipc.*shm", re.I),
     "A process of the session uses System V shared memory, which cannot be saved here.",
     "Use POSIX shared memory (multiprocessing.shared_memory) instead."),
    (re.compile(r"Can't dump (?:file|anon inode).*?(/dev/nvidia\S*|/dev/\S+)"
                r"|unsupported device (\S+)", re.I),
     "A process of the session has the device {0} open, which cannot be saved.",
     "Close what uses the device and save again."),
    (re.compile(r"In-flight connection \("),
     "A connection to a port of the session waits to be accepted and cannot be saved.",
     "Save again in a moment: it goes as soon as the program that listens accepts it."),
    (re.compile(r"on an in-flight socket|closed in-flight socket"),
     "A connection to a unix socket of the session waits to be accepted and cannot be saved.",
     "Save again in a moment: it goes as soon as the program that listens accepts it."),
    (re.compile(r"FATAL: Peer \d+ unresolved"),
     "The checkpoint was made while a connection to a program outside of the session had not "
     "been accepted: it cannot be restored.", "Restore another checkpoint."),
    (re.compile(r"inotify|fsnotify|irmap", re.I),
     "A process of the session watches files (inotify), which cannot be saved in this mode.",
     "Stop the watcher and save again, or use root mode (see 'jupyter ckpt doctor')."),
    (re.compile(r"userfaultfd", re.I),
     "A process of the session uses userfaultfd, which cannot be saved.",
     "End what uses it and save again."),
    (re.compile(r"External socket is used"
                r"|(?:unix|Can't dump half of stream unix).*connection", re.I),
     "A process of the session is connected to a program outside through a unix socket, "
     "which cannot be saved.",
     "Close that connection (a debugger, a display, an agent) and save again."),
    (re.compile(r"Can't dump file \d+ of that type \[\d+\] \(\w+ (.+?)\)"),
     "A process of the session has a descriptor open ({0}) that cannot be saved.",
     "Close it and save again."),
    (re.compile(r"ghost file .*?too (?:large|big)|Can't dump ghost file (\S+)", re.I),
     "A deleted file that is still open is larger than the limit for saving.",
     "Close the file or keep it in the file system."),
    (re.compile(r"No space left on device", re.I), "The disk is full.",
     "Free space and try again."),
    (re.compile(r"Operation not permitted|Permission denied|insufficient capabilit", re.I),
     "CRIU lacks a privilege it needs.", "'jupyter ckpt doctor' tells what works here."),
    (re.compile(r"Timeout reached", re.I), "The processes could not be stopped in time.",
     "A process may be waiting for a disk or network file system; try again."),
    (re.compile(r"ptrace|SEIZE|seize", re.I), "A process of the session cannot be traced.",
     "Detach debuggers and tracers (gdb, strace, py-spy) and save again."),
]


def error_lines(log: Path) -> list[str]:
    """Return the error lines of a CRIU log without those that mean nothing."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line[:MOST_CHARS] for line in text.splitlines() if "Error (" in line]
    return [line for line in lines if not _HARMLESS.search(line)]


def cause(log: Path) -> tuple[str, str]:
    """Return (sentence, hint) for the failure that a CRIU log tells of."""
    lines = error_lines(log)
    for pattern, sentence, hint in _CAUSES:
        for line in lines:
            match = pattern.search(line)
            if match:
                subject = next((g for g in match.groups() if g), "?")
                return sentence.format(subject), hint
    for line in lines:
        if not _NOISE.search(line):
            return f"CRIU failed: {line.split('): ', 1)[-1].strip()}.", f"The log {log} tells more."
    if not log.exists():
        return "CRIU ended without writing a log.", "'jupyter ckpt doctor' tests it."
    return "CRIU failed without naming a cause.", f"The log {log} tells more."
