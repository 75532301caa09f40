"""How Jupyter reaches a kernel: ports and key, in a kernel manager and in a record's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jupyter_client.connect import LocalPortCache, port_names

from ..errors import LaunchFailed
from ..kernel_ports import kernel_ports
from ..record import Record


def give_ports(manager: Any) -> bool:
    """Give a new kernel ports that the system hands to nobody until it has bound them.

    They are marked as used in jupyter_client's cache, for whoever starts several
    kernels at once. Returns False, and changes nothing, where there are none or
    `manager` keeps no cache: then jupyter_client chooses, as for any local kernel.
    """
    if not getattr(manager, "cache_ports", False):
        return False
    cache = LocalPortCache.instance()
    found = kernel_ports(manager.ip, cache.currently_used_ports)
    if not all(found.values()):
        return False
    for name, port in found.items():
        setattr(manager, name, port)
    cache.currently_used_ports.update(found.values())
    return True


def exchange_ports(manager: Any, record: Record, given: list[int]) -> None:
    """Like `connect_to`; the cache takes back the ports that were `given` before."""
    cache = LocalPortCache.instance()
    connect_to(manager, record)
    for port in given:
        cache.return_port(port)
    cache.currently_used_ports.update(manager.ports)


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


def move_to_new_ports(manager: Any) -> None:
    """Connect everything of a server anew to the ports that `manager` was pointed at.

    Only their reconnection heals the sockets of browsers: they are told of a restart.
    """
    manager._close_control_socket()
    manager._connect_control_socket()
    everyone = manager.parent
    if hasattr(everyone, "stop_watching_activity"):  # a server's, not that of a batch run
        everyone.stop_watching_activity(manager.kernel_id)
        state = manager.execution_state
        everyone.start_watching_activity(manager.kernel_id)
        manager.execution_state = state
    if manager._restarter is not None:
        manager._restarter._fire_callbacks("restart")


def connection_of(manager: Any) -> dict[str, Any]:
    """Return the ports and the key of a kernel manager as a connection file holds them."""
    info = manager.get_connection_info(session=False)
    return {key: value.decode() if isinstance(value, bytes) else value
            for key, value in info.items()}


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
