"""Who a restored kernel is: its ports, key, connection file and message ids."""

from __future__ import annotations

import os
import socket
import stat
import uuid
from collections.abc import Callable
from typing import Any

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


def listening_ports() -> dict[int, int]:
    """Return {file descriptor: TCP port} of this process's listening sockets.

    Descriptors survive a restore, ports may not: comparing the two tells what a
    socket without a name in the connection file (ipykernel's pipe) listens on.
    """
    found: dict[int, int] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fd = int(name)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockopt(
                        socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found[fd] = int(sock.getsockname()[1])
        except OSError:
            continue  # closed meanwhile by another thread
    return found


class Identity:
    """The kernel's addresses, as its own parts remember them."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._app = getattr(kernel, "parent", None)
        self._ports: dict[int, int] = {}

    def remember(self) -> None:
        """Note the listening ports; called just before a dump."""
        self._ports = listening_ports()

    def internal_ports(self) -> list[int]:
        """Return ports that are ipykernel's own business: nobody else knows them."""
        client = getattr(getattr(self._kernel, "debugger", None), "debugpy_client", None)
        found = (getattr(getattr(self._kernel, "iopub_thread", None), "_pipe_port", 0),
                 getattr(client, "debugpy_port", 0))
        return [int(port) for port in found if port and int(port) > 0]

    def moved_ports(self, told: Any) -> dict[int, int]:
        """Return {old port: new port} from what we see and what the agent tells."""
        now = listening_ports()
        moved = {old: now[fd] for fd, old in self._ports.items() if now.get(fd, old) != old}
        for old, new in (told or {}).items():
            moved.setdefault(int(old), int(new))
        return {old: new for old, new in moved.items() if old != new}

    def renew(self, op: dict[str, Any]) -> list[str]:
        """Take over what the ``restored`` op says; return what did not work."""
        warnings = []
        connection = op.get("connection") or {}
        moved = self.moved_ports(op.get("port_map"))
        steps: list[tuple[str, Callable[[], None]]] = [
            ("session key", lambda: self._set_key(connection)),
            ("ports", lambda: self._set_ports(connection, moved)),
            ("connection file", lambda: self._set_connection_file(op.get("connection_file"))),
            ("output pipe", lambda: self._set_pipe(moved)),
            ("debugger", lambda: self._set_debugger(moved)),
        ]
        for name, step in steps:
            try:
                step()
            except Exception as error:
                warnings.append(f"The kernel's {name} could not be renewed: "
                                f"{type(error).__name__}: {error}.")
        return warnings

    def _set_key(self, connection: dict[str, Any]) -> None:
        session = self._kernel.session
        # New message ids: a twin of this process goes on counting the old ones.
        session.session = str(uuid.uuid4())
        if connection.get("signature_scheme"):
            session.signature_scheme = connection["signature_scheme"]
        if "key" in connection:
            key = connection["key"] or ""
            session.key = key.encode() if isinstance(key, str) else key

    def _set_ports(self, connection: dict[str, Any], moved: dict[int, int]) -> None:
        app, ports = self._app, {}
        for channel in CHANNELS:
            old = int(getattr(app, f"{channel}_port", 0) or 0)
            new = int(connection.get(f"{channel}_port") or moved.get(old) or old)
            ports[channel] = new
            if app is not None and new != old:
                setattr(app, f"{channel}_port", new)
        if app is None:
            return
        app._ports = dict(ports)
        self._kernel.record_ports({f"{name}_port": port for name, port in ports.items()})
        heartbeat = getattr(app, "heartbeat", None)
        if heartbeat is not None:
            heartbeat.port = heartbeat.original_port = ports["hb"]
            heartbeat.addr = (heartbeat.ip, ports["hb"])

    def _set_connection_file(self, path: Any) -> None:
        if path and self._app is not None:
            self._app.connection_file = str(path)

    def _set_pipe(self, moved: dict[int, int]) -> None:
        thread = self._kernel.iopub_thread
        new = moved.get(int(getattr(thread, "_pipe_port", 0) or 0))
        if new:
            thread._pipe_port = new

    def _set_debugger(self, moved: dict[int, int]) -> None:
        client = getattr(getattr(self._kernel, "debugger", None), "debugpy_client", None)
        old = int(getattr(client, "debugpy_port", -1) or -1)
        if old in moved:
            client.debugpy_port = str(moved[old])  # type: ignore[union-attr]
            client.endpoint = f"tcp://{client.debugpy_host}:{moved[old]}"  # type: ignore[union-attr]
        dealer = getattr(self._kernel, "debug_shell_socket", None)
        thread = getattr(self._kernel, "control_thread", None)
        shell_port = int(getattr(self._app, "shell_port", 0) or 0)
        before = [old for old, new in moved.items() if new == shell_port]
        if dealer is None or thread is None or not before:
            return
        host = f"{self._app.transport}://{self._app.ip}"  # type: ignore[union-attr]

        def reconnect() -> None:  # zmq sockets belong to their thread
            dealer.disconnect(f"{host}:{before[0]}")
            dealer.connect(f"{host}:{shell_port}")

        thread.io_loop.add_callback(reconnect)
