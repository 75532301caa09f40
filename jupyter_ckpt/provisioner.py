"""The provisioner: kernels that live in a box beside an agent.

jupyter_client asks it to start, watch, signal and end a kernel. It works with
and without a Jupyter server (nbclient, papermill, ``jupyter execute``). Where
no process checkpoint is possible it is exactly a `LocalProvisioner`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from .box.hangup import reset_on_end
from .errors import LaunchFailed, NotPossibleHere
from .procfs import ProcessId, descendants
from .record import Record
from .server import backend
from .server.attached import AttachedProcess

PROVISIONER_NAME = "ckpt-provisioner"
METADATA_KEY = "jupyter_ckpt"
_reasons_told: set[str] = set()


class CheckpointProvisioner(LocalProvisioner):
    """A local kernel that can be checkpointed.

    One-shot keyword of ``start_kernel``: ``attach``, the `Record` of a living
    kernel (adopted or just restored) to show instead of starting one. It is
    forgotten at once, so that a later restart starts an ordinary kernel.
    """

    enabled = Bool(True, config=True, help="""Start kernels so that they can be checkpointed.
        A kernelspec can also say no: "metadata": {"jupyter_ckpt": {"enabled": false}}.""")

    record: Record | None = None
    """The kernel's record; None while it is an ordinary local process."""
    _attach: Record | None = None

    # -- start ------------------------------------------------------------------
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare command and environment; called by the kernel manager."""
        self._attach = kwargs.pop("attach", None)
        manager: Any = self.parent
        launch_args = getattr(manager, "_launch_args", None)
        if isinstance(launch_args, dict):
            launch_args.pop("attach", None)
        if self._attach is None:
            return await super().pre_launch(**kwargs)
        kwargs.pop("extra_arguments", None)
        connect_to(manager, self._attach)
        self.connection_info = manager.get_connection_info()
        # The grandparent's: it only finishes the environment. The parent's
        # would choose new ports.
        return await super(LocalProvisioner, self).pre_launch(cmd=[], **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel in a box, or attach to one.

        Raises `LaunchFailed` when the kernel did not start; then nothing is
        left behind. Falls back to an ordinary process where no checkpoint is
        possible, saying why once.
        """
        self.cwd = kwargs.get("cwd") or Path.cwd()
        if self._attach is not None:
            record, self._attach = self._attach, None
            self.show(record)
            return self.connection_info
        why_not = self._why_ordinary()
        if not why_not:
            try:
                self.show(await self._launch_boxed(cmd, kwargs))
                return self.connection_info
            except NotPossibleHere as error:
                why_not = f"{error.message} {error.hint}".strip()
        self._tell_once(why_not)
        self.record = None
        return await super().launch_kernel(cmd, **kwargs)

    async def _launch_boxed(self, cmd: list[str], kwargs: dict[str, Any]) -> Record:
        env = dict(kwargs.get("env") or os.environ)
        # Inside the box the server is not the kernel's parent: with this set,
        # ipykernel would end itself within a second.
        env.pop("JPY_PARENT_PID", None)
        spec = self.kernel_spec
        place = backend.current()
        await place.run(place.require_process_checkpoints)
        return await place.run(
            place.launch,
            kernel_id=str(self.kernel_id),
            kernel_name=str(getattr(self.parent, "kernel_name", "") or spec.display_name),
            cmd=_with_full_path(cmd, env),
            env=env,
            cwd=str(self.cwd),
            connection_file=str(getattr(self.parent, "connection_file", "")),
            language=str(spec.language or ""),
            notebook=_notebook_of(env),
        )

    def show(self, record: Record) -> None:
        """Make `record` the kernel behind this provisioner (adoption, restore).

        Raises `LaunchFailed` when the record names no process.
        """
        if record.kernel is None:
            raise LaunchFailed(f"The record of kernel {record.kernel_id} names no process.")
        self.record = record
        process: Any = AttachedProcess(record.kernel)
        self.process = process
        self.pid, self.pgid = record.kernel.pid, None
        self.cwd = record.cwd

    def _why_ordinary(self) -> str:
        if sys.platform != "linux":
            return "Checkpoints of processes need Linux."
        if not self.enabled:
            return "CheckpointProvisioner.enabled is off."
        chosen = (self.kernel_spec.metadata or {}).get(METADATA_KEY)
        if isinstance(chosen, dict) and chosen.get("enabled") is False:
            return f"The kernelspec {self.kernel_spec.display_name!r} says no."
        return ""

    def _tell_once(self, reason: str) -> None:
        if reason not in _reasons_told:
            _reasons_told.add(reason)
            self.log.warning("Kernels start without checkpoints: %s", reason)

    # -- life -------------------------------------------------------------------
    async def send_signal(self, signum: int) -> None:
        """Signal the kernel process (an interrupt is SIGINT); nothing once it is dead."""
        if self.record is None:
            await super().send_signal(signum)
        elif self.process is not None:
            self.process.send_signal(signum)

    async def kill(self, restart: bool = False) -> None:
        """End the whole box at once: the kernel and everything it started."""
        if self.record is None:
            await super().kill(restart)
            return
        kill_tree(self.record)

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel process to end."""
        if self.record is None:
            await super().terminate(restart)
            return
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        """End what is left of the box and its agent, and forget the record.

        Called after every shutdown and between the two halves of a restart.
        """
        await super().cleanup(restart)
        record, self.record = self.record, None
        if record is not None:
            place = backend.current()
            await place.run(place.stop, record)


def connect_to(manager: Any, record: Record) -> None:
    """Point a kernel manager at the ports and the key of a living kernel.

    Raises `LaunchFailed` when the connection file cannot be read; the manager
    is unchanged then.
    """
    info = _connection_of(record)
    for name in port_names:
        setattr(manager, name, 0)
    manager.connection_file = record.connection_file
    manager.load_connection_info(info)
    # Ours to remove when the kernel is shut down, as if we had written it.
    manager._connection_file_written = True


def ports_of(record: Record) -> list[int]:
    """Return a kernel's ports in jupyter_client's order; raise `LaunchFailed` like `connect_to`."""
    info = _connection_of(record)
    return [int(info.get(name, 0)) for name in port_names]


def _connection_of(record: Record) -> dict[str, Any]:
    try:
        info: dict[str, Any] = json.loads(Path(record.connection_file).read_bytes())
    except (OSError, ValueError) as error:
        raise LaunchFailed(
            f"The connection file of kernel {record.kernel_id} cannot be read: {error}.",
            "Restore its last checkpoint with 'jupyter ckpt restore'.") from error
    return info


def kill_tree(record: Record) -> None:
    """Send SIGKILL to everything in a box; the pids are checked by start time."""
    if record.init is not None and record.init.is_alive():
        reset_on_end(descendants(record.init.pid))  # the ports are needed again
        # The kernel ends a pid namespace together with its PID 1.
        AttachedProcess(record.init).kill()
        return
    top = record.root if record.root is not None and record.root.is_alive() else record.kernel
    if top is None or not top.is_alive():
        return
    tree = descendants(top.pid)
    reset_on_end(tree)
    # Parents first, so that none lives to replace a child.
    for identity in _identities(tree):
        AttachedProcess(identity).kill()


def _identities(pids: Iterable[int]) -> list[ProcessId]:
    return [identity for identity in map(ProcessId.of, pids) if identity is not None]


def _with_full_path(cmd: list[str], env: dict[str, str]) -> list[str]:
    """Return `cmd` with its program's full path.

    CRIU starts nothing again, but a virtualenv's python finds its packages by
    the path it was started with.
    """
    program = shutil.which(cmd[0], path=env.get("PATH")) if cmd else None
    return [os.path.abspath(program), *cmd[1:]] if program else cmd


def _notebook_of(env: dict[str, str]) -> str | None:
    name = env.get("JPY_SESSION_NAME", "")
    return name if os.path.isabs(name) and name.endswith(".ipynb") else None
