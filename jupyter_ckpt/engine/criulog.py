"""One sentence for a person out of CRIU's log.

The first error line is often a harmless one and the last a mere consequence,
so known causes are looked for first, and noise is dropped before guessing.
"""

from __future__ import annotations

import re
from pathlib import Path

_NOISE = re.compile(
    r"RLIMIT_NOFILE|net\.c:\d+|Dumping FAILED|Restoring FAILED|Can't get link"
    r"|exited with|killed by signal|returned non-zero|Unable to dump|Can't dump|uns: calls"
    r"|cr-restore\.c:\d+\): \d+ exited|cgroup"
)

# What CRIU says -> (what it means, what to do). \1 stands for the first group.
_CAUSES: list[tuple[re.Pattern[str], str, str]] = [
    (re.compile(r"File (.+?) has bad size"), "The file {0} changed its size since the checkpoint.",
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
    (re.compile(r"io_uring|anon_inode:\[io_uring\]"),
     "A process of the session uses io_uring, which cannot be saved.",
     "Close it (for uvloop: use asyncio's own loop) and save again."),
    (re.compile(r"SysV|sysvipc|ipc.*shm", re.I),
     "A process of the session uses System V shared memory, which cannot be saved here.",
     "Use POSIX shared memory (multiprocessing.shared_memory) instead."),
    (re.compile(r"Can't dump (?:file|anon inode).*?(/dev/nvidia\S*|/dev/\S+)"
                r"|unsupported device (\S+)", re.I),
     "A process of the session has the device {0} open, which cannot be saved.",
     "Close what uses the device and save again."),
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
    lines = [line for line in text.splitlines() if "Error (" in line]
    return [line for line in lines if "RLIMIT_NOFILE" not in line]


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
