"""Ports at a restore: kept when free, waited for when the system holds them, else moved."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from jupyter_ckpt.agent.ports import (
    DEFAULT_WAIT_S,
    _socket_inodes,
    checked_wait,
    choose_ports,
)
from jupyter_ckpt.agent.reservation import Reservation, is_free
from jupyter_ckpt.engine.sockets import Connection, InetSockets, Listener
from jupyter_ckpt.errors import RestoreRefused, UsageError


@pytest.fixture
def reserved() -> Iterator[Reservation]:
    with Reservation() as found:
        yield found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def listener(port: int) -> Listener:
    return Listener("tcp", "127.0.0.1", port)


def in_time_wait() -> int:
    """Return a port that only the system holds: its server closed first."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            client.recv(1)
    return port


def test_free_port_is_kept(reserved: Reservation) -> None:
    port = free_port()
    assert choose_ports(InetSockets([listener(port)], [], []), {}, [], print, reserved) == {}


def test_taken_port_moves(reserved: Reservation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], print, reserved)
    assert is_free(listener(moves[port]))


def test_ports_that_move_get_a_port_each(reserved: Reservation) -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(400)]
    taken = [listener(server.getsockname()[1]) for server in servers]
    moves = choose_ports(InetSockets(taken, [], []), {}, [], print, reserved)
    for server in servers:
        server.close()
    assert len(set(moves.values())) == len(taken)


def test_chosen_port_is_nobodys_but_crius(reserved: Reservation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = squatter.getsockname()[1]
        (port,) = choose_ports(
            InetSockets([listener(taken)], [], []), {}, [], print, reserved).values()
    with socket.socket() as anybody, pytest.raises(OSError, match="in use"):
        anybody.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):  # it reuses addresses, as CRIU does
        pass


def test_copies_restored_at_once_get_ports_of_their_own(reserved: Reservation) -> None:
    both = InetSockets([listener(port := free_port()), Listener("tcp", "::1", port)], [], [])
    assert choose_ports(both, {}, [], print, reserved) == {}, "one port at two addresses"
    with Reservation() as of_another:
        moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], print, of_another)
        assert moves[port] != port
    reserved.close()
    with Reservation() as of_a_third:
        assert choose_ports(both, {}, [], print, of_a_third) == {}


HOLD = """
import sys, time
from jupyter_ckpt.agent.reservation import Reservation
from jupyter_ckpt.engine.sockets import Listener
reserved = Reservation()
print(reserved.take(Listener("tcp", "127.0.0.1", int(sys.argv[1]))), flush=True)
time.sleep(600)
"""


def test_ports_of_an_agent_that_is_killed_are_free_again(reserved: Reservation) -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(port)], text=True,
                          stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "True\n"
        assert not reserved.take(listener(port))
        agent.kill()
    assert reserved.take(listener(port))


def test_port_the_caller_insists_on_is_refused_when_taken(reserved: Reservation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port, saved = squatter.getsockname()[1], free_port()
        with pytest.raises(RestoreRefused, match=str(port)):
            choose_ports(InetSockets([listener(saved)], [], []), {saved: port}, [], print, reserved)


def test_kernel_port_the_caller_insists_on_never_moves(reserved: Reservation) -> None:
    port = in_time_wait()
    told: list[str] = []
    with pytest.raises(RestoreRefused, match=str(port)):
        choose_ports(InetSockets([listener(port)], [], []), {port: port}, [port], told.append,
                     reserved, wait_s=0.5)
    assert f"waiting for port {port}" in told[0]


def test_port_held_by_the_system_is_waited_for_with_a_message_then_moves(
    reserved: Reservation
) -> None:
    port = in_time_wait()
    told: list[str] = []
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], told.append, reserved,
                             wait_s=0.5)
    assert port in moves
    assert f"waiting for port {port}" in told[0]
    assert "s left" in told[0]


def test_kernel_port_held_by_the_system_moves_at_once(reserved: Reservation) -> None:
    port = in_time_wait()
    told: list[str] = []
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [port], told.append, reserved)
    assert port in moves
    assert told == []


def test_inner_connection_still_in_the_system_gets_another_client_port(
    reserved: Reservation
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            here, there = client.getsockname()[:2], server.getsockname()[:2]
            both = [Connection(here, there), Connection(there, here)]
            sockets = InetSockets([], both, [])
            moves = choose_ports(sockets, {}, [], print, reserved)
    assert len(moves) == 1
    assert set(moves) <= {here[1], there[1]}


def test_ports_of_both_ends_stay_together_when_a_listener_is_involved(
    reserved: Reservation
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            here, there = client.getsockname()[:2], server.getsockname()[:2]
            both = [Connection(here, there), Connection(there, here)]
            sockets = InetSockets([listener(there[1])], both, [])
            moves = choose_ports(sockets, {}, [], print, reserved)
    assert there[1] in moves, "the listener is taken and moves"
    assert here[1] not in moves, "with the listener's new port the pair is free"


@pytest.mark.parametrize(("asked", "seconds"), [
    (None, DEFAULT_WAIT_S), (0, 0.0), (0.0, 0.0), (5, 5.0)])
def test_wait_that_is_asked_for_is_kept_also_none(asked: object, seconds: float) -> None:
    assert checked_wait(asked) == seconds


@pytest.mark.parametrize("asked", [-1, float("nan"), float("inf"), "5", []])
def test_wait_that_is_no_time_is_refused(asked: object) -> None:
    with pytest.raises(UsageError, match="How long to wait"):
        checked_wait(asked)


def test_no_waiting_means_none(reserved: Reservation) -> None:
    told: list[str] = []
    port = in_time_wait()
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], told.append,
                         reserved, checked_wait(0))
    assert port in moves
    assert told == []


def test_descriptor_that_goes_away_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        inode = os.fstat(server.fileno()).st_ino
        first, readlink = min(map(int, os.listdir("/proc/self/fd"))), os.readlink

        def closed_meanwhile(path: str) -> str:
            if path.endswith(f"/fd/{first}"):
                raise FileNotFoundError(path)
            return readlink(path)

        monkeypatch.setattr(os, "readlink", closed_meanwhile)
        assert inode in _socket_inodes([os.getpid()])
