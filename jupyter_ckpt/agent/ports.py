"""Ports of a session to restore: free, held by the system, or taken for good."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from ..engine.sockets import InetSockets, Listener
from ..errors import RestoreRefused
from ..protocol import checked_wait_s
from .refusals import Refusals
from .reservation import Reservation, is_free

TIME_WAIT, LISTEN = "06", "0A"
DEFAULT_WAIT_S = 70.0


def checked_wait(asked: Any) -> float:
    """Return for how many seconds a restore waits for ports; None asks for the usual time.

    Raises `UsageError` for what is no such time.
    """
    found = checked_wait_s(asked)
    return DEFAULT_WAIT_S if found is None else found


def _tcp_table() -> list[tuple[int, int, str]]:
    """Return (local port, remote port, state) of every TCP socket here."""
    found = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, encoding="ascii") as table:
                next(table)
                for line in table:
                    words = line.split()
                    local, remote = (int(w.rsplit(":", 1)[1], 16) for w in words[1:3])
                    found.append((local, remote, words[3]))
        except (OSError, StopIteration):
            continue
    return found


def check_ports(
    sockets: InetSockets, wanted: dict[int, int], replaced: Iterable[int], refusals: Refusals
) -> None:
    """Refuse when an address is missing here, or a port insisted on is another program's.

    ``wanted`` is {saved: port}; the processes ``replaced`` will give theirs back.
    """
    ours = _socket_inodes(replaced)
    for listener in sockets.listeners:
        target = wanted.get(listener.port, listener.port)
        with refusals.collecting():
            free = is_free(Listener(listener.protocol, listener.address, target))
            if not free and listener.port in wanted and _listening_inodes(target) - ours:
                raise _port_taken(target)


def _port_taken(port: int) -> RestoreRefused:
    return RestoreRefused(f"Port {port} is used by another program.",
                          "End that program, or restore as a new kernel with --new.")


def _socket_inodes(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    for pid in pids:
        for link in _descriptors(pid):
            if link.startswith("socket:"):
                found.add(int(link[8:-1]))
    return found


def _descriptors(pid: int) -> Iterator[str]:
    """Yield what the descriptors of a process are; those closed meanwhile are passed over."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


def _listening_inodes(port: int) -> set[int]:
    found: set[int] = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, encoding="ascii") as table:
                rows = [line.split() for line in table][1:]
        except OSError:
            continue
        found.update(int(row[9]) for row in rows
                     if row[3] == LISTEN and int(row[1].rsplit(":", 1)[1], 16) == port)
    return found


def _held_by_system(port: int) -> bool:
    states = {state for local, _, state in _tcp_table() if local == port}
    return bool(states) and states <= {TIME_WAIT}


def choose_ports(
    sockets: InetSockets,
    wanted: dict[int, int],
    movable: Iterable[int],
    on_wait: Callable[[str], None],
    reservation: Reservation,
    wait_s: float = DEFAULT_WAIT_S,
) -> dict[int, int]:
    """Return {saved port: port to use} for every port that has to change.

    All that are chosen are in `reservation` then.

    ``wanted`` are moves the caller asks for (a kernel's connection). Ports in
    ``movable`` move at once when they are taken, unless they are wanted; a port
    that only the system holds (TIME_WAIT, at most a minute) is waited for, and
    told to `on_wait`. Any other taken port moves as well: a session is more than
    a port number.
    """
    moves = {old: new for old, new in wanted.items() if old != new}
    free_to_move = set(movable).difference(wanted)
    deadline = time.monotonic() + wait_s
    for listener in sockets.listeners:
        target = moves.get(listener.port, listener.port)
        this = Listener(listener.protocol, listener.address, target)
        while not reservation.take(this):
            waiting = time.monotonic() < deadline and _held_by_system(target)
            if not waiting or listener.port in free_to_move:
                if listener.port in wanted:
                    raise _port_taken(target)
                moves[listener.port] = reservation.take_any(listener)
                break
            _wait(on_wait, f"port {target}", deadline)
    _move_connections(sockets, moves, reservation)
    return moves


def _move_connections(
    sockets: InetSockets, moves: dict[int, int], reservation: Reservation
) -> None:
    """Give connections inside the tree whose ports are still held other ports.

    For a minute after the end of the original the system holds the pair. Both
    ends are restored here, so the one that is no listener's may have any port:
    nobody has to wait.
    """
    listening = {listener.port for listener in sockets.listeners}
    held = {(local, remote) for local, remote, _ in _tcp_table()}
    for connection in sockets.inner:
        source, target = connection.source[1], connection.target[1]
        if (moves.get(source, source), moves.get(target, target)) in held:
            address, port = connection.target if source in listening else connection.source
            moves[port] = reservation.take_any(Listener("tcp", address, 0))


def _wait(on_wait: Callable[[str], None], what: str, deadline: float) -> None:
    left = max(0, round(deadline - time.monotonic()))
    on_wait(f"waiting for {what}: the system keeps closed ports for a minute "
            f"(at most {left} s left)")
    time.sleep(0.25)
