"""Running CRIU: one dump that leaves the tree running, one restore.

Options were measured to work for kernels in every mode; see docs/explanation.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CannotBeSaved, CriuBroken, DumpFailed, OutOfSpace, RestoreFailed
from .criulog import cause
from .images import read_image
from .notifications import Notifications

GHOST_LIMIT = "1G"

RunInBox = Callable[[Sequence[str]], list[str]]
"""Turns a command into the argv that runs it inside a box with privileges."""


@dataclass
class Criu:
    """A criu binary, the privilege mode it runs in, and the way into the box.

    ``notifier`` is the action script: a link named ``ckpt-notify`` to the
    ``ckpt-box`` program.
    """

    binary: Path
    mode: str
    notifier: Path

    def _common(self, images: Path, log: str) -> list[str]:
        options = ["-D", str(images), "-o", log, "-v2", "--file-locks",
                   "--manage-cgroups=ignore", "--ghost-limit", GHOST_LIMIT]
        if self.mode == "root":
            options += ["--tcp-established", "--network-lock", "skip"]
        else:
            options += ["--tcp-close", "--unprivileged"]
        return options

    def dump(
        self, root_pid: int, images: Path, inside: RunInBox, while_frozen: Callable[[], None]
    ) -> float:
        """Dump the tree of `root_pid` (as the box counts) and let it run on.

        `while_frozen` is called when all images are written and the tree still
        stands still; an exception from it gives the dump up. Returns the pause
        in seconds. Raises `CannotBeSaved`, `OutOfSpace` or `DumpFailed` with
        the log's path; the tree runs in every case.
        """
        argv = [str(self.binary), "dump", "-t", str(root_pid), "--leave-running",
                *self._common(images, "dump.log"), "--action-script", str(self.notifier)]
        with Notifications(self.notifier.parent) as notifications:
            process = _start(inside(argv))
            # Never killed: it holds the tree, and only its own end lets go.
            failure = notifications.serve(process, while_frozen)
        if failure is not None:
            raise failure
        if process.returncode != 0:
            raise _dump_error(images / "dump.log")
        return _pause_s(images)

    def restore(self, images: Path, inside: RunInBox) -> None:
        """Restore the tree in `images` and leave it running, detached.

        Raises `RestoreFailed` with the cause and the log's path; then nothing
        of the tree runs.
        """
        argv = [str(self.binary), "restore", "-d", *self._common(images, "restore.log")]
        status = _start(inside(argv)).wait()
        if status != 0:
            log = images / "restore.log"
            sentence, hint = cause(log)
            raise RestoreFailed(sentence, hint, str(log) if log.exists() else "")


def _start(argv: list[str]) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C"}
    try:
        # In a session of its own: what ends the agent must not end a criu that
        # holds a frozen tree.
        return subprocess.Popen(
            argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        raise CriuBroken(f"CRIU cannot be started: {error}.",
                         "Run 'jupyter ckpt setup'.") from error


def _dump_error(log: Path) -> DumpFailed:
    sentence, hint = cause(log)
    kind = CannotBeSaved if "cannot be saved" in sentence else DumpFailed
    if sentence == "The disk is full.":
        kind = OutOfSpace
    return kind(sentence, hint, str(log) if log.exists() else "")


def _pause_s(images: Path) -> float:
    stats = read_image(images / "stats-dump", "stats_entry")[0].dump
    return float(stats.freezing_time + stats.frozen_time) / 1e6
