"""Ports of new kernels: nobody else is given them meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jupyter_ckpt import kernel_ports as module
from jupyter_ckpt.kernel_ports import kernel_ports
from jupyter_ckpt.protocol import PORT_NAMES


def given_from() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def test_ports_are_free_and_not_those_that_the_system_gives_away() -> None:
    if given_from() < 20_000:
        pytest.skip("this system gives nearly all ports away")
    found = kernel_ports("127.0.0.1")
    assert tuple(found) == PORT_NAMES
    assert len(set(found.values())) == len(PORT_NAMES)
    for port in found.values():
        assert 1024 < port < given_from()
        with socket.socket() as kernel:
            kernel.bind(("127.0.0.1", port))


def test_taken_ports_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        picked = [taken, *kernel_ports("127.0.0.1").values()]
        monkeypatch.setattr(module.random, "sample", lambda *_: picked)
        assert list(kernel_ports("127.0.0.1").values()) == picked[1:]


def test_ports_of_other_kernels_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    picked = [*kernel_ports("127.0.0.1").values(), *kernel_ports("127.0.0.1").values()]
    monkeypatch.setattr(module.random, "sample", lambda *_: picked)
    assert list(kernel_ports("127.0.0.1", picked[:5]).values()) == picked[5:]


@pytest.mark.parametrize("told", ["1024 65535", "no numbers", None])
def test_where_the_system_gives_all_ports_away_any_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    if told is not None:
        (tmp_path / "range").write_text(told)
    monkeypatch.setattr(module, "_RANGE", tmp_path / "range")
    assert set(kernel_ports("127.0.0.1").values()) == {0}
