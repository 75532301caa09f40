"""Exchanging the process behind a Jupyter kernel id, without a word to the browser.

The kernel keeps its id, its ports and its key, so open websockets go on: the
server's sockets reconnect by themselves to whoever listens on the ports.
"""

from __future__ import annotations

from typing import Any

from ..errors import NotOurKernel
from ..provisioner import CheckpointProvisioner
from ..record import Record
from .adoption import tell_state
from .connection import connect_to, connection_of, move_to_new_ports, ports_of
from .gate import Gate
from .reconnection import Reconnection


class KernelSwap:
    """One exchange: `begin`, `reconnected`, then `finish` with whatever lives now."""

    def __init__(self, kernel_manager: Any, kernel_id: str) -> None:
        """Prepare; raise `NotOurKernel` when the kernel was not started by us."""
        self._all = kernel_manager
        self._kernel_id = kernel_id
        self._manager = kernel_manager.get_kernel(kernel_id)
        provisioner = self._manager.provisioner
        if not isinstance(provisioner, CheckpointProvisioner) or provisioner.record is None:
            raise NotOurKernel(
                f"Kernel {kernel_id} was not started by jupyter_ckpt and cannot be exchanged.",
                "Restart the kernel and try again, or restore as a new notebook.")
        self._provisioner = provisioner
        self._gate = Gate(self._manager)
        self._reconnection: Reconnection | None = None

    @property
    def connection(self) -> dict[str, Any]:
        """The ports and the key that the new process must take over."""
        return connection_of(self._manager)

    @property
    def connection_file(self) -> str:
        return str(self._manager.connection_file)

    def begin(self) -> None:
        """Keep the restarter away, for the end of the old process is no crash; also whoever
        wants to end or restart the kernel, until `finish`.
        """
        self._gate.close()
        self._manager.shutting_down = True
        self._manager.stop_restarter()
        self._reconnection = Reconnection(self._all, self._kernel_id)

    async def reconnected(self, record: Record | None) -> None:
        """Wait until our sockets have found the process of `record`.

        Only then is nothing lost of what it publishes, so only then may the
        journal of its running cell be read. There is nothing to wait for when
        nobody lives, the old process still does, or the ports are others.
        """
        shown = self._provisioner.record
        if (record is None or shown is None or record.kernel == shown.kernel
                or ports_of(record) != list(self._manager.ports)):
            return
        if self._reconnection is not None:
            await self._reconnection.wait()

    async def finish(self, record: Record | None, running: dict[str, Any] | None) -> None:
        """Show the process that lives now and watch it again, whatever is raised meanwhile.

        With None (nothing survived) the restarter finds a dead kernel and
        starts a fresh one, as after any crash.
        """
        try:
            if record is not None and record.is_alive():
                await self._show(record, running)
        finally:
            # A kernel that nobody watches would stay dead after its next crash.
            self._manager.shutting_down = False
            self._manager.start_restarter()
            if self._reconnection is not None:
                self._reconnection.close()
            self._gate.open()

    async def _show(self, record: Record, running: dict[str, Any] | None) -> None:
        old_ports = list(self._manager.ports)
        try:
            connect_to(self._manager, record)
            self._provisioner.connection_info = self._manager.get_connection_info()
        finally:
            # Or the restarter would take the end of the old process for a crash.
            self._provisioner.show(record)
        await tell_state(self._manager, running)
        if list(self._manager.ports) != old_ports:
            move_to_new_ports(self._manager)
