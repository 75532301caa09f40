"""A box of namespaces: root mode, and rootless mode with a user namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import LaunchFailed, ModeUnavailable
from ..procfs import ProcessId, inner_pid, pids_in_box
from ..protocol import BOX_RUNTIME_DIR
from .contract import ROOT_PID, Box, identities, kill_and_wait, run_box_binary

FIRST_PID_FLOOR = ROOT_PID
"""Pids of a fresh box start here, so that the kernel follows its dump root."""

EMPTY_DEADLINE_S = 300
"""How long an empty box waits for its tree (native/box.c says the same)."""


class NamespaceBox(Box):
    """A pid and mount namespace kept by a PID 1 that outlives every agent."""

    def __init__(self, binary: Path, runtime: Path, mode: str, init: ProcessId) -> None:
        super().__init__(binary, runtime)
        self.mode = mode
        self._init = init

    @classmethod
    def create(
        cls, binary: Path, runtime: Path, mode: str, pid_floor: int = FIRST_PID_FLOOR,
        empty_deadline_s: int = EMPTY_DEADLINE_S,
    ) -> NamespaceBox:
        """Make an empty box; `pid_floor` is the last pid taken for granted in it.

        It ends by itself when nothing is in it after `empty_deadline_s`.
        Raises `ModeUnavailable` with the refused step; then nothing is left.
        """
        argv = [str(binary), "init", "--runtime", str(runtime), "--pid-floor", str(pid_floor),
                "--empty-deadline", str(empty_deadline_s)]
        if mode == "rootless":
            argv.append("--user")
        pid = int(run_box_binary(argv, failure=ModeUnavailable))
        init = ProcessId.of(pid)
        if init is None:
            raise LaunchFailed("The first process of the kernel's box ended at once.")
        return cls(binary, runtime, mode, init)

    @property
    def inner_runtime(self) -> str:
        return BOX_RUNTIME_DIR

    @property
    def init(self) -> ProcessId:
        return self._init

    def _enter(self, cwd: str | None) -> list[str]:
        argv = [str(self.binary), "enter", str(self._init.pid)]
        return argv if cwd is None else [*argv, "--cwd", cwd]

    def command(self, cmd: Sequence[str], cwd: str | None = None) -> list[str]:
        return [*self._enter(cwd), "--caps", "--", *cmd]

    def start_root(
        self, cmd: Sequence[str], env: Mapping[str, str], cwd: str, umask: int = 0o077
    ) -> int:
        log = f"{self.inner_runtime}/kernel.log"
        argv = [*self._enter(cwd), "--detach", log, "--", *self.root_command(cmd)]
        run_box_binary(argv, env=env, umask=umask)
        return ROOT_PID

    def host_pid(self, inner_pid: int) -> int | None:
        return pids_in_box(self._init.pid).get(inner_pid)

    def inner_pid(self, host_pid: int) -> int | None:
        return inner_pid(host_pid)

    def path(self, inside: str) -> Path:
        return Path(f"/proc/{self._init.pid}/root{inside}")

    def cover(self, folder: str) -> bool:
        try:
            run_box_binary([str(self.binary), "cover", str(self._init.pid), folder])
        except LaunchFailed:
            return False
        return True

    def stop(self, kernel: ProcessId | None = None) -> None:
        # The end of PID 1 takes every process of its namespace along, but only
        # their disappearance frees ports and files.
        kill_and_wait(identities(self._init))
