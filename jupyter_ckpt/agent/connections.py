"""Network connections that a checkpoint loses, told when it is made."""

from __future__ import annotations

from collections.abc import Collection

from ..engine.sockets import Connection, InetSockets

_NAMED = 3


def lost_connections(sockets: InetSockets, internal_ports: Collection[int], mode: str) -> list[str]:
    """Return warnings about connections that a restore will find closed.

    Those over ``internal_ports`` (of kernel, front ends and in-kernel part) are
    made again by whoever uses them.
    """
    def is_users(connection: Connection) -> bool:
        return not {connection.source[1], connection.target[1]} & set(internal_ports)

    warnings = []
    outer = [c for c in sockets.outer if is_users(c)]
    if outer:
        names = list(dict.fromkeys(_spelled(c.target) for c in outer))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warnings.append(
            f"{len(outer)} network connection(s) to outside ({', '.join(names[:_NAMED])}{more}) "
            "will come back closed: their other end is not part of the session.")
    inner = [c for c in sockets.inner if is_users(c)]
    if inner and mode != "root":
        warnings.append(
            f"{-(-len(inner) // 2)} network connection(s) between the session's own processes "
            f"will come back closed: {mode} mode cannot bring them back.")
    return warnings


def _spelled(end: tuple[str, int]) -> str:
    address, port = end
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
