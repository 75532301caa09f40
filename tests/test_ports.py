"""Ports at a restore: kept when free, waited for when the system holds them, else moved."""

from __future__ import annotations

import os
import socket

import pytest

from jupyter_ckpt.agent.ports import (
    DEFAULT_WAIT_S,
    _socket_inodes,
    checked_wait,
    choose_ports,
    free_port,
    is_free,
)
from jupyter_ckpt.engine.sockets import Connection, InetSockets, Listener
from jupyter_ckpt.errors import RestoreRefused, UsageError


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


def test_free_port_is_kept() -> None:
    port = free_port()
    assert choose_ports(InetSockets([listener(port)], [], []), {}, [], print) == {}


def test_taken_port_moves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], print)
    assert is_free(listener(moves[port]))


def test_port_the_caller_insists_on_is_refused_when_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port, saved = squatter.getsockname()[1], free_port()
        with pytest.raises(RestoreRefused, match=str(port)):
            choose_ports(InetSockets([listener(saved)], [], []), {saved: port}, [], print)


def test_kernel_port_the_caller_insists_on_never_moves() -> None:
    port = in_time_wait()
    told: list[str] = []
    with pytest.raises(RestoreRefused, match=str(port)):
        choose_ports(InetSockets([listener(port)], [], []), {port: port}, [port], told.append,
                     wait_s=0.5)
    assert f"waiting for port {port}" in told[0]


def test_port_held_by_the_system_is_waited_for_with_a_message_then_moves() -> None:
    port = in_time_wait()
    told: list[str] = []
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], told.append, wait_s=0.5)
    assert port in moves
    assert f"waiting for port {port}" in told[0]
    assert "s left" in told[0]


def test_kernel_port_held_by_the_system_moves_at_once() -> None:
    port = in_time_wait()
    told: list[str] = []
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [port], told.append)
    assert port in moves
    assert told == []


def test_inner_connection_still_in_the_system_gets_another_client_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            here, there = client.getsockname()[:2], server.getsockname()[:2]
            both = [Connection(here, there), Connection(there, here)]
            sockets = InetSockets([], both, [])
            moves = choose_ports(sockets, {}, [], print)
    assert len(moves) == 1
    assert set(moves) <= {here[1], there[1]}


def test_ports_of_both_ends_stay_together_when_a_listener_is_involved() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            here, there = client.getsockname()[:2], server.getsockname()[:2]
            both = [Connection(here, there), Connection(there, here)]
            moves = choose_ports(InetSockets([listener(there[1])], both, []), {}, [], print)
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


def test_no_waiting_means_none() -> None:
    told: list[str] = []
    port = in_time_wait()
    moves = choose_ports(InetSockets([listener(port)], [], []), {}, [], told.append,
                         checked_wait(0))
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
