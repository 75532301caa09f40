"""A box without namespaces: caps mode, where only criu has privileges."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError, LaunchFailed
from ..procfs import ProcessId
from ..record import read_record
from .contract import Box, identities, kill_and_wait, run_box_binary

SPREAD_PIDS = 5000
"""Up to this many pids pass before a kernel starts, so that its pids are likely
to be free again when it is restored (they must be: there is no namespace)."""


class OpenBox(Box):
    """A tree under a dump root in the host's own namespaces.

    ``alias`` is a short, stable path that stands for the runtime folder: the
    kernel's socket is bound under it and must be found again after a restore.
    """

    mode = "caps"

    def __init__(self, binary: Path, runtime: Path, alias: str, root: ProcessId | None) -> None:
        super().__init__(binary, runtime)
        self.alias = alias
        self.root = root

    @classmethod
    def create(cls, binary: Path, runtime: Path, alias: str) -> OpenBox:
        """Point `alias` at the runtime folder and return the empty box.

        Raises `LaunchFailed` when another user or a living kernel has it.
        """
        if os.path.islink(alias):
            if not is_free(alias, runtime):
                raise LaunchFailed(
                    f"The path {alias} belongs to another kernel (a copy of this session, "
                    "say) or to another user.", "Stop that kernel first.")
            os.unlink(alias)
        os.symlink(runtime, alias)
        return cls(binary, runtime, alias, None)

    @property
    def inner_runtime(self) -> str:
        return self.alias

    @property
    def hidden_shm(self) -> str:
        """The shim's folder for deleted shared memory of this tree alone."""
        return f"/dev/shm/.box-{os.path.basename(self.alias).lstrip('.')}"

    @property
    def init(self) -> None:
        return None

    def command(self, cmd: Sequence[str], cwd: str | None = None) -> list[str]:
        return [str(self.binary), "watch", "--", *cmd]

    def start_root(
        self, cmd: Sequence[str], env: Mapping[str, str], cwd: str, umask: int = 0o077
    ) -> int:
        log = str(self.runtime / "kernel.log")
        argv = [str(self.binary), "detach", log, "--spread", str(random.randrange(SPREAD_PIDS)),
                "--cwd", cwd, "--", *self.root_command(cmd)]
        pid = int(run_box_binary(argv, env=env, umask=umask))
        self.adopt_root(pid)
        return pid

    def adopt_root(self, pid: int) -> None:
        """Take the process that a launch or a restore made as the dump root."""
        self.root = ProcessId.of(pid)
        if self.root is None:
            raise LaunchFailed("The kernel's dump root ended at once.")

    def host_pid(self, inner_pid: int) -> int | None:
        return inner_pid if ProcessId.of(inner_pid) else None

    def inner_pid(self, host_pid: int) -> int | None:
        return host_pid if ProcessId.of(host_pid) else None

    def path(self, inside: str) -> Path:
        return Path(inside)

    def cover(self, folder: str) -> bool:
        return False  # it sees the host's folders

    def stop(self, kernel: ProcessId | None = None) -> None:
        # Gathered before the first kill: orphans would leave the tree.
        kill_and_wait(identities(self.root) or identities(kernel))
        target = _target(self.alias)
        if target in (self.runtime, None):  # else another kernel has it by now
            shutil.rmtree(self.hidden_shm, ignore_errors=True)
        if target == self.runtime:
            os.unlink(self.alias)


def is_free(alias: str, runtime: Path) -> bool:
    """Tell whether no living kernel but the one of `runtime` is reached by `alias`."""
    target = _target(alias)
    if target is None or target == runtime:
        return True
    if os.lstat(alias).st_uid != os.geteuid():
        return False
    try:
        return not read_record(target).is_alive()
    except CheckpointError:
        return True


def _target(alias: str) -> Path | None:
    """Return where the link `alias` leads, None when there is none."""
    try:
        return Path(os.readlink(alias))
    except OSError:
        return None
