"""The provisioner: kernels that live in a box beside an agent.

jupyter_client asks it to start, watch, signal and end a kernel. It works with
and without a Jupyter server (nbclient, papermill, ``jupyter execute``). Where
no process checkpoint is possible it is exactly a `LocalProvisioner`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from .errors import CheckpointError, LaunchFailed, NotPossibleHere
from .manifest import utc_now
from .record import Record
from .server import backend
from .server.adoption import tell_state
from .server.attached import AttachedProcess, kill_tree
from .server.connection import (
    connection_of,
    exchange_ports,
    give_ports,
    move_to_new_ports,
    ports_of,
)
from .server.revival import Revival, Start

PROVISIONER_NAME = "ckpt-provisioner"
METADATA_KEY = "jupyter_ckpt"
_reasons_told: set[str] = set()


class CheckpointProvisioner(LocalProvisioner):
    """A local kernel that can be checkpointed.

    A notebook that is opened while its session is parked gets that session back
    instead of a fresh kernel. A restart always starts a fresh one, unless the
    kernel crashed and ``CheckpointApp.on_crash`` is ``restore``.

    One-shot keyword of ``start_kernel``: ``attach``, the `Record` of a living
    kernel (adopted or just restored) to show instead of starting one. It is
    forgotten at once, so that a later restart starts an ordinary kernel.
    """

    enabled = Bool(True, config=True, help="""Start kernels so that they can be checkpointed.
        A kernelspec can also say no: "metadata": {"jupyter_ckpt": {"enabled": false}}.""")

    record: Record | None = None
    """The kernel's record; None while it is an ordinary local process."""
    _attach: Record | None = None
    _launched = False
    """Whether this is a later life of the kernel: a restart."""
    _asked_at: str | None = None
    """When somebody wanted this life of the kernel to end."""
    _crashed = False
    """Whether the life before this one ended by itself."""

    # -- start ------------------------------------------------------------------
    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare command and environment; called by the kernel manager.

        Raises `LaunchFailed` when a kernel of this id lives already, for its
        connection file would be overwritten; nothing is changed then.
        """
        self._attach = kwargs.pop("attach", None)
        manager: Any = self.parent
        launch_args = getattr(manager, "_launch_args", None)
        if isinstance(launch_args, dict):
            launch_args.pop("attach", None)
        if self._attach is None:
            if self.record is None:
                await self._refuse_living()
            has_ports = self.ports_cached and any(manager.ports)  # not after ``newports``
            if not has_ports and give_ports(manager):
                self.ports_cached = True  # `cleanup` gives them back
            return await super().pre_launch(**kwargs)
        kwargs.pop("extra_arguments", None)
        self._connect(manager, self._attach)
        # The grandparent's: it only finishes the environment. The parent's
        # would choose new ports.
        return await super(LocalProvisioner, self).pre_launch(cmd=[], **kwargs)

    async def _refuse_living(self) -> None:
        try:
            place = backend.current()
            living = (await place.run(place.record, str(self.kernel_id))).is_alive()
        except CheckpointError:
            return  # there is none
        if living:
            raise LaunchFailed(
                f"Kernel {self.kernel_id} lives already, without this server or in another one.",
                f"'jupyter ckpt stop {self.kernel_id}' ends it; or start one with another id.")

    def _connect(self, manager: Any, record: Record) -> None:
        """Point `manager` at a living kernel, whose later lives are to have its ports, too."""
        exchange_ports(manager, record, list(manager.ports) if self.ports_cached else [])
        self.ports_cached = True
        self.connection_info = manager.get_connection_info()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel in a box, or attach to one.

        Raises `LaunchFailed` when the kernel did not start; then nothing is
        left behind. Falls back to an ordinary process where no checkpoint is
        possible, saying why once.
        """
        self.cwd = kwargs.get("cwd") or Path.cwd()
        restart, self._launched = self._launched, True
        if self._attach is not None:
            record, self._attach = self._attach, None
            self.show(record)
            return self.connection_info
        why_not = self._why_ordinary()
        if not why_not:
            try:
                place = backend.current()
                await place.run(place.require_process_checkpoints)
                revived = await self._revived(kwargs, restart)
                self.show(revived or await self._launch_boxed(cmd, kwargs))
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
        place = backend.current()
        session, notebook = place.session_of(str(self.kernel_id))
        return await place.run(
            place.launch,
            kernel_id=str(self.kernel_id),
            kernel_name=self._kernel_name,
            cmd=_with_full_path(cmd, env),
            env=env,
            cwd=str(self.cwd),
            connection_file=str(getattr(self.parent, "connection_file", "")),
            language=str(self.kernel_spec.language or ""),
            session=session,
            notebook=notebook or _notebook_of(env),
        )

    @property
    def _kernel_name(self) -> str:
        return str(getattr(self.parent, "kernel_name", "") or self.kernel_spec.display_name)

    async def _revived(self, kwargs: dict[str, Any], restart: bool) -> Record | None:
        """Bring back what is parked for the notebook that a server opens, or what crashed."""
        place = backend.current()
        notebook = _notebook_of(kwargs.get("env") or {})
        crashed, self._crashed, self._asked_at = self._crashed, False, None
        # A batch run always starts fresh, even where it has inherited the variable.
        if place.owner is None or (restart and not crashed):
            return None
        manager: Any = self.parent
        start = Start(str(self.kernel_id), self._kernel_name, notebook,
                      connection_of(manager), str(manager.connection_file))
        revival = Revival(place, self.log)
        record = await (revival.of_crashed(start) if crashed else revival.of_parked(start))
        if record is not None:
            # Its own key: kernels of other languages cannot be given ours.
            self._connect(manager, record)
            await self._tell_whether_busy(manager, record)
        return record

    @staticmethod
    async def _tell_whether_busy(manager: Any, record: Record) -> None:
        """Let Jupyter know a cell that goes on; it would call every new kernel idle."""
        place = backend.current()
        try:
            running = await place.run(place.running, record)
        except CheckpointError:
            running = None
        await tell_state(manager, running)
        if manager.execution_state == "busy":
            def on_change(change: Any) -> None:
                if change["new"] == "starting":
                    manager.unobserve(on_change, "execution_state")
                    manager.execution_state = "busy"

            manager.observe(on_change, "execution_state")

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
    async def poll(self) -> int | None:
        """Tell whether the kernel lives (None), whoever has exchanged its process."""
        status = await super().poll()
        manager: Any = self.parent
        # Who ends it, or exchanges it here, knows better what lives.
        if status is None or self.record is None or manager.shutting_down:
            return status
        return None if await self._is_exchanged(manager) else status

    async def _is_exchanged(self, manager: Any) -> bool:
        """Tell whether the kernel was restored without this server, or just is; show it then."""
        place = backend.current()
        shown = self.record
        try:
            present = await place.run(place.record, str(self.kernel_id))
        except CheckpointError:
            return False
        if shown is None or shown is not self.record or manager.shutting_down:
            return shown is not None  # it was shown, or is being ended, in the meantime
        if not present.is_alive():
            return present.recover is not None  # an agent brings it to life
        if present.kernel == shown.kernel:
            return False
        moved = ports_of(present) != list(manager.ports)
        self._connect(manager, present)
        self.show(present)
        self.log.warning("Kernel %s was restored without this server: it is process %d now.",
                         self.kernel_id, self.pid)
        if moved:
            move_to_new_ports(manager)
        await self._tell_whether_busy(manager, present)
        return True

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel process (an interrupt is SIGINT); nothing once it is dead."""
        if self.record is None:
            await super().send_signal(signum)
        elif self.process is not None:
            self.process.send_signal(signum)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Note that the kernel's end is wanted; called before it is asked to end itself."""
        self._asked_at = utc_now()
        await super().shutdown_requested(restart)

    async def kill(self, restart: bool = False) -> None:
        """End the whole box at once: the kernel and everything it started.

        Called at once for a kernel that was found dead: then it has crashed.
        """
        if self.record is None:
            await super().kill(restart)
            return
        self._crashed = self._asked_at is None and not self.record.is_alive()
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
            if self._asked_at is not None:
                # Some kernels crash while they end; nobody wants that one back.
                await place.run(place.dismiss_offer, record.kernel_id, self._asked_at)


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
