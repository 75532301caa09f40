"""Running CRIU: one dump that leaves the tree running, one restore.

Options were measured to work for kernels in every mode; see docs/explanation.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CannotBeSaved, CriuBroken, DumpFailed, OutOfSpace, RestoreFailed
from ..procfs import readable
from .criulog import cause
from .holders import LOOK_EVERY_S, Tell, Watch, await_end, kill_all, nobody
from .images import read_image
from .notifications import SILENCE_S, Measure, Notifications

GHOST_LIMIT_BYTES = 1 << 30
"""Deleted files that are still open are part of the images up to this size."""
RESTORE_DEADLINE_S = 60.0
RESTORE_DEADLINE_S_PER_GB = 60.0
"""Far beyond what a slow disk takes (0.6 to 1.2 s per GB were measured)."""
RELEASE_DEADLINE_S = 120.0
"""How long processes of a dump may outlive it before they are told of."""
_KILLED = (-9, 128 + 9)

RunInBox = Callable[[Sequence[str]], list[str]]
"""Turns a command into the argv that runs it inside a box with privileges."""


@dataclass
class Criu:
    """A criu binary, the privilege mode it runs in, and the way into the box.

    ``notifier`` is the action script: a link named ``ckpt-notify`` to the
    ``ckpt-box`` program in the folder of this run; without a sign of life for
    ``silence_s`` it ends the freeze. ``shim`` is preloaded into the criu of a dump,
    so that not criu but the way into the box traces the tree: then the death of
    criu harms no process of it (native/tracer.c).
    """

    binary: Path
    mode: str
    notifier: Path
    silence_s: float = SILENCE_S
    shim: Path | None = None

    def _common(self, images: Path, log: str) -> list[str]:
        options = ["-D", str(images), "-o", log, "-v2", "--file-locks",
                   "--manage-cgroups=ignore", "--ghost-limit", str(GHOST_LIMIT_BYTES)]
        if self.mode == "root":
            options += ["--tcp-established", "--network-lock", "skip"]
        else:
            options += ["--tcp-close", "--unprivileged"]
        return options

    def dump(
        self, root_pid: int, images: Path, inside: RunInBox, while_frozen: Callable[[], None],
        progress: Measure = lambda: None, tell: Tell = nobody,
    ) -> float:
        """Dump the tree of `root_pid` (as the box counts) and let it run on.

        `while_frozen` is called when all images are written and the tree still
        stands still; an exception from it, or standing still itself by what
        `progress` measures, gives the dump up. `tell` gets a sentence when criu
        stands still, '' when it goes on. Returns the pause
        in seconds. Raises `CannotBeSaved`, `OutOfSpace` or `DumpFailed` with
        the log's path; the tree runs in every case.
        """
        argv = [str(self.binary), "dump", "-t", str(root_pid), "--leave-running",
                *self._common(images, "dump.log"), "--action-script", str(self.notifier)]
        # What the script's and criu's command lines name.
        watch = Watch(str(images), str(self.notifier), tell=tell)
        with Notifications(self.notifier.parent) as notifications:
            process = _start(inside(argv), CKPT_NOTIFY_SILENCE_MS=str(int(self.silence_s * 1000)),
                             **({"CKPT_CRIU_SHIM": str(self.shim)} if self.shim else {}))
            # Never killed: it holds the tree, and only its own end lets go.
            failure = notifications.serve(process, while_frozen, progress, watch)
        # What we waited for may have been killed, and criu have gone on without it.
        released = await_end(watch, tell, RELEASE_DEADLINE_S)
        if not released and failure is None:
            left = watch.look()
            raise DumpFailed(
                f"A process of criu{f' ({left[0].pid})' if left else ''} has not ended within "
                f"{RELEASE_DEADLINE_S:.0f} s after the dump, and may still hold the session.",
                "It is not killed, for the session would suffer; save again when it has ended.")
        if process.returncode in _KILLED:
            raise DumpFailed("criu was killed (signal 9) while it was saving the session.",
                             "The system may be out of memory: see 'dmesg'.")
        if failure is not None:
            raise failure
        if process.returncode != 0:
            raise _dump_error(images / "dump.log")
        return _pause_s(images)

    def restore(
        self, images: Path, inside: RunInBox, deadline_s: float | None = None,
        tell: Tell = nobody,
    ) -> None:
        """Restore the tree in `images` and leave it running, detached.

        Raises `RestoreFailed` with the cause and the log's path; then criu has
        ended, and what it had begun of the tree has to be ended with its box.
        A restore that hangs is killed after `deadline_s` (default: by the size
        of the images), for unlike a dump it holds nothing that lived before.
        """
        argv = [str(self.binary), "restore", "-d", *self._common(images, "restore.log")]
        if deadline_s is None:
            deadline_s = _restore_deadline_s(images)
        process = _start(inside(argv))
        if not _ends_in_time(process, Watch(str(images), tell=tell), deadline_s):
            kill_all(str(images))
            process.wait()
            raise RestoreFailed(
                f"criu did not bring the session back within {deadline_s:.0f} s.",
                "Another process may hold a file lock that the session had, or a disk "
                "may not answer.")
        if process.wait() != 0:
            log = images / "restore.log"
            sentence, hint = cause(log)
            raise RestoreFailed(sentence, hint, str(log) if log.exists() else "")


def _start(argv: list[str], **told: str) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C",
           **told}
    try:
        # In a session of its own: what ends the agent must not end a criu that
        # holds a frozen tree.
        return subprocess.Popen(
            argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise CriuBroken(f"CRIU cannot be started: {error}.",
                         "Run 'jupyter ckpt setup'.") from error


def _ends_in_time(process: subprocess.Popen[bytes], watch: Watch, deadline_s: float) -> bool:
    """Wait for the end of `process`, its helpers looked after; False when time is up."""
    deadline = time.monotonic() + deadline_s
    # Not by Popen.wait, which would sleep up to 50 ms longer than the process lives.
    ended = os.pidfd_open(process.pid)
    try:
        while not readable([ended], max(0.0, min(LOOK_EVERY_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                return False
            watch.look()
        return True
    finally:
        os.close(ended)


def _restore_deadline_s(images: Path) -> float:
    size_gb = sum(path.stat().st_size for path in images.iterdir()) / 1e9
    return RESTORE_DEADLINE_S + size_gb * RESTORE_DEADLINE_S_PER_GB


def _dump_error(log: Path) -> DumpFailed:
    sentence, hint = cause(log)
    kind = CannotBeSaved if "cannot be saved" in sentence else DumpFailed
    if sentence == "The disk is full.":
        kind = OutOfSpace
    return kind(sentence, hint, str(log) if log.exists() else "")


def _pause_s(images: Path) -> float:
    stats = read_image(images / "stats-dump", "stats_entry")[0].dump
    return float(stats.freezing_time + stats.frozen_time) / 1e6
