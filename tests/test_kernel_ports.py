"""Ports of new kernels: nobody else is given them meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_ckpt import kernel_ports as module
from jupyter_ckpt.kernel_ports import keep, kernel_ports
from jupyter_ckpt.protocol import PORT_NAMES


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    forget()


def forget() -> None:
    """Let go of the ports chosen so far, as if the process had ended."""
    while module._held:
        module._held.popitem()[1][1].close()


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
    taken, free = (next(iter(kernel_ports("127.0.0.1").values())) for _ in range(2))
    forget()
    monkeypatch.setattr(module.random, "sample", lambda *_: [taken, free])
    with socket.create_server(("127.0.0.1", taken + 3)):
        assert kernel_ports("127.0.0.1")["shell_port"] == free
    assert kernel_ports("127.0.0.1")["shell_port"] == taken, "nothing of it is kept"


def test_ports_of_other_kernels_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, free = (next(iter(kernel_ports("127.0.0.1").values())) for _ in range(2))
    forget()
    monkeypatch.setattr(module.random, "sample", lambda *_: [theirs, free])
    assert kernel_ports("127.0.0.1", [theirs + 4])["shell_port"] == free


def test_what_another_process_has_just_chosen_is_passed_over() -> None:
    """Its kernel has not bound it yet."""
    choose = ("from jupyter_ckpt.kernel_ports import kernel_ports\n"
              "print(kernel_ports('127.0.0.1')['shell_port'], flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", choose], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        chosen = int(other.stdout.readline())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.random, "sample", lambda *_: [chosen])
            assert set(kernel_ports("127.0.0.1").values()) == {0}
            other.communicate("")
            assert kernel_ports("127.0.0.1")["shell_port"] == chosen


def test_ports_that_an_agent_keeps_for_its_kernel_are_passed_over(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who chose them may be gone, and the kernel has not bound them yet."""
    chosen = kernel_ports("127.0.0.1")
    forget()
    monkeypatch.setattr(module.random, "sample", lambda *_: [chosen["shell_port"]])
    kept = keep(dict(chosen))
    assert kept is not None
    with kept:
        assert set(kernel_ports("127.0.0.1").values()) == {0}
    assert kernel_ports("127.0.0.1") == chosen
    assert keep(None) is keep({"shell_port": "none"}) is None


def test_ports_are_held_for_a_while_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = kernel_ports("127.0.0.1")
    monkeypatch.setattr(module.random, "sample", lambda *_: [chosen["shell_port"]])
    assert set(kernel_ports("127.0.0.1").values()) == {0}
    monkeypatch.setattr(module, "HELD_S", 0.0)
    assert kernel_ports("127.0.0.1") == chosen


@pytest.mark.parametrize("told", ["1024 65535", "no numbers", None])
def test_where_the_system_gives_all_ports_away_any_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    if told is not None:
        (tmp_path / "range").write_text(told)
    monkeypatch.setattr(module, "_RANGE", tmp_path / "range")
    assert set(kernel_ports("127.0.0.1").values()) == {0}
