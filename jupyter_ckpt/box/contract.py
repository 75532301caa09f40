"""What every box can do; knows processes and folders, not Jupyter."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import CheckpointError, LaunchFailed, ModeUnavailable
from ..procfs import ProcessId, all_pids, command_name, descendants, status_lines

ROOT_PID = 100
"""The dump root's pid inside every namespace box (native/box.c says the same)."""

STOP_DEADLINE_S = 10.0
PROGRAM = "ckpt-box"
LOG_NAME = "kernel.log"
"""What a tree writes goes there, in the runtime folder."""


class Box(ABC):
    """Where one kernel's tree runs.

    ``binary`` is the ``ckpt-box`` program, ``runtime`` the kernel's runtime
    folder on the host.
    """

    mode: str

    def __init__(self, binary: Path, runtime: Path) -> None:
        self.binary = binary
        self.runtime = runtime

    @property
    @abstractmethod
    def inner_runtime(self) -> str:
        """The runtime folder as the kernel sees it: the same after any restore."""

    @property
    @abstractmethod
    def init(self) -> ProcessId | None:
        """PID 1 of the box on the host, None when the box has none."""

    @abstractmethod
    def command(self, cmd: Sequence[str], cwd: str | None = None) -> list[str]:
        """Return the argv that runs `cmd` inside, with the box's privileges."""

    @abstractmethod
    def start_root(
        self, cmd: Sequence[str], env: Mapping[str, str], cwd: str, umask: int = 0o077
    ) -> int:
        """Start `cmd` under a dump root in this box.

        `umask` is the tree's own, for the files its user makes. The output of
        the tree is appended to ``kernel.log`` in the runtime folder. Returns
        the root's pid inside the box. Raises `LaunchFailed`; then nothing runs.
        """

    @abstractmethod
    def host_pid(self, inner_pid: int) -> int | None:
        """Return the host's pid of a process of the box, None when it is gone."""

    @abstractmethod
    def inner_pid(self, host_pid: int) -> int | None:
        """Return a process' pid inside the box, None when it is gone."""

    @abstractmethod
    def path(self, inside: str) -> Path:
        """Return the path by which the host reaches a path of the box."""

    @abstractmethod
    def cover(self, folder: str) -> bool:
        """Give the tree an empty folder of its own in the place of `folder`.

        To be called before there is a tree. False where this box has no such places,
        or it could not be done.
        """

    @abstractmethod
    def stop(self, kernel: ProcessId | None = None) -> None:
        """End every process of the box and wait until all are gone.

        `kernel` is ended, with its children, where what held the box together
        has ended before it.
        """

    def root_command(self, cmd: Sequence[str]) -> list[str]:
        return [str(self.binary), "root", "--", *cmd]


def run_box_binary(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    failure: type[CheckpointError] = LaunchFailed,
    umask: int = -1,
) -> str:
    """Run ``ckpt-box`` to its end and return what it printed.

    Raises `failure` with the program's one line of explanation.
    """
    done = subprocess.run(
        argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        start_new_session=True, umask=umask,
    )
    if done.returncode != 0:
        reason = done.stderr.strip().removeprefix("ckpt-box: ") or f"exit {done.returncode}"
        hint = "'jupyter ckpt doctor' tells what works here."
        if failure is ModeUnavailable:
            raise failure(f"A box cannot be made here ({reason}).", hint)
        raise failure(f"The kernel's box could not be used ({reason}).", hint)
    return done.stdout.strip()


def kill_and_wait(victims: Sequence[ProcessId]) -> None:
    """Send SIGKILL to each process and wait until none of them runs.

    Raises `LaunchFailed` naming one that does not end, or that may not be ended;
    all the others are ended then, too.
    """
    forbidden = []
    for victim in victims:
        if victim.is_alive():
            try:
                os.kill(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            except PermissionError:  # of another user: started with sudo, say
                forbidden.append(victim)
    deadline = time.monotonic() + STOP_DEADLINE_S
    while left := [v for v in victims if v not in forbidden and v.is_alive()]:
        if time.monotonic() > deadline:
            raise LaunchFailed(
                f"Process {left[0].pid} does not end although it was killed.",
                "It may be waiting for a disk or network file system.")
        time.sleep(0.01)
    for victim in forbidden:
        if victim.is_alive():
            raise LaunchFailed(
                f"Process {victim.pid} ({command_name(victim.pid)}) of the session belongs to "
                "another user and goes on.", "End it as that user.")


def end_boxes_of(runtime: Path) -> None:
    """End every box made for the runtime folder `runtime`, recorded or not.

    Called where no kernel of that folder can live: an agent that is killed
    between making a box and recording it leaves one nobody else knows of. A box
    without namespaces is known by its dump root, whose output is the folder's log.
    """
    for pid in all_pids():
        top = ProcessId.of(pid)
        if _is_of(pid, runtime):
            kill_and_wait(identities(top))


def _is_of(pid: int, runtime: Path) -> bool:
    """Tell whether `pid` is the first process of a box of `runtime`, made by this user."""
    folder, log = os.fsencode(runtime), os.fsencode(runtime / LOG_NAME)
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        if words[1:4] == [b"init", b"--runtime", folder] or words[1:3] == [b"detach", log]:
            return _is_our_program(pid)
        return (words[1:3] == [b"root", b"--"] and _is_our_program(pid)
                and os.readlink(f"/proc/{pid}/fd/1") == str(runtime.resolve() / LOG_NAME))
    except OSError:
        return False


def _is_our_program(pid: int) -> bool:
    """Tell whether `pid` runs ``ckpt-box`` as this user; raises OSError when it is gone."""
    user = status_lines(pid).get("Uid", "").split()[1:2]
    program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    return user == [str(os.geteuid())] and program == PROGRAM


def identities(top: ProcessId | None) -> list[ProcessId]:
    """Return the identity of `top` and of every descendant that still runs.

    None of them when `top` has ended: another process may have its pid by now.
    """
    if top is None:
        return []
    found = [ProcessId.of(each) for each in descendants(top.pid)]
    return [each for each in found if each is not None] if top.is_alive() else []
