"""What a restore needs of this machine, checked before anything is touched."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from jupyter_ckpt.agent.connections import lost_connections
from jupyter_ckpt.agent.host import check_compatible, cpu, describe
from jupyter_ckpt.agent.libraries import check_unchanged, inventory
from jupyter_ckpt.agent.ports import check_ports
from jupyter_ckpt.agent.refusals import Refusals
from jupyter_ckpt.agent.room import check_disk, check_memory
from jupyter_ckpt.engine.openfiles import OpenFile
from jupyter_ckpt.engine.sockets import Connection, InetSockets, Listener
from jupyter_ckpt.errors import RestoreRefused

MEMORY = "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 500 kB\nSwapFree: 100 kB\n"
KB = 1024


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 1500 kB of memory and swap, 500 kB of them free."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text(MEMORY)
    (folder / "self" / "cgroup").write_text("0::/user/session\n")
    return folder


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroups"
    (folder / "user" / "session").mkdir(parents=True)
    return folder


def limit(folder: Path, most: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")


def test_memory_that_fits_is_not_spoken_of(proc: Path, cgroups: Path) -> None:
    limit(cgroups / "user", "max", 0)
    assert check_memory(500 * KB, 0, proc, cgroups) == []


def test_memory_that_is_short_now_is_a_warning(proc: Path, cgroups: Path) -> None:
    (warning,) = check_memory(600 * KB, 0, proc, cgroups)
    assert "were free" in warning


def test_memory_of_the_session_that_is_replaced_counts_as_free(
    proc: Path, cgroups: Path
) -> None:
    assert check_memory(600 * KB, 100 * KB, proc, cgroups) == []


def test_memory_beyond_the_machines_is_refused(proc: Path, cgroups: Path) -> None:
    with pytest.raises(RestoreRefused, match=r"this machine has 1\.5 MB in all"):
        check_memory(1501 * KB, 9999 * KB, proc, cgroups)


def test_memory_that_processes_may_share_is_a_warning_only(proc: Path, cgroups: Path) -> None:
    assert len(check_memory(9999 * KB, 0, proc, cgroups, least_bytes=100 * KB)) == 1


@pytest.mark.parametrize("inside", ["user", "user/session"])
def test_memory_beyond_the_limit_of_any_control_group_is_refused(
    proc: Path, cgroups: Path, inside: str
) -> None:
    limit(cgroups / inside, str(300 * KB), 0)
    assert check_memory(300 * KB, 0, proc, cgroups) == []
    with pytest.raises(RestoreRefused, match="control group"):
        check_memory(301 * KB, 0, proc, cgroups)


def test_memory_in_use_below_the_limit_is_a_warning(proc: Path, cgroups: Path) -> None:
    limit(cgroups / "user", str(300 * KB), 200 * KB)
    assert len(check_memory(150 * KB, 0, proc, cgroups)) == 1


def test_memory_limit_of_the_older_control_groups(proc: Path, cgroups: Path) -> None:
    (proc / "self" / "cgroup").write_text("7:cpu:/\n5:memory:/box\n")
    (cgroups / "memory" / "box").mkdir(parents=True)
    (cgroups / "memory" / "box" / "memory.limit_in_bytes").write_text(str(300 * KB))
    (cgroups / "memory" / "box" / "memory.usage_in_bytes").write_text("0")
    with pytest.raises(RestoreRefused, match="control group"):
        check_memory(301 * KB, 0, proc, cgroups)


def test_this_machine_can_be_asked() -> None:
    assert check_memory(1, 0) == []


def test_disk_without_room_is_named_with_what_is_needed(tmp_path: Path) -> None:
    check_disk({str(tmp_path): 1})
    with pytest.raises(RestoreRefused, match=f"on the disk of {tmp_path}, where .* are free"):
        check_disk({str(tmp_path): 1 << 60})


def test_needs_on_one_disk_are_added_up(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    most = status.f_bavail * status.f_frsize * 6 // 10
    (tmp_path / "other").mkdir()
    check_disk({str(tmp_path): most})
    with pytest.raises(RestoreRefused):
        check_disk({str(tmp_path): most, str(tmp_path / "other"): most})


def sockets_on(port: int, address: str = "127.0.0.1") -> InetSockets:
    return InetSockets([Listener("tcp", address, port)], [], [])


def test_port_of_the_session_that_is_replaced_counts_as_free() -> None:
    refusals = Refusals()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_ports(sockets_on(port), {port: port}, [os.getpid()], refusals)
    refusals.raise_if_any()


def test_port_insisted_on_that_another_program_has_is_refused() -> None:
    refusals = Refusals()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_ports(sockets_on(port), {port: port}, [], refusals)
    with pytest.raises(RestoreRefused, match=f"Port {port} is used by another program"):
        refusals.raise_if_any()


def test_port_that_may_move_is_no_reason_to_refuse() -> None:
    refusals = Refusals()
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_ports(sockets_on(server.getsockname()[1]), {}, [], refusals)
    refusals.raise_if_any()


def test_address_this_machine_does_not_have_is_named() -> None:
    refusals = Refusals()
    check_ports(sockets_on(1234, "192.0.2.77"), {}, [], refusals)
    with pytest.raises(RestoreRefused, match=r"192\.0\.2\.77, which this machine does not have"):
        refusals.raise_if_any()


def test_every_difference_of_the_machine_is_in_one_error() -> None:
    saved = describe("4.2.1") | {"uid": os.getuid() + 1}
    with pytest.raises(RestoreRefused) as caught:
        check_compatible(saved, [*cpu()[1], "amx_of_the_future"], "4.1.1")
    for word in ("user id", "amx_of_the_future", "CRIU here is older (4.1.1)"):
        assert word in caught.value.message
    assert "jupyter ckpt setup" in caught.value.hint


@pytest.mark.parametrize("here", ["4.2", "4.2.1", "4.3", "5.0"])
def test_criu_of_the_same_release_or_a_newer_one_will_do(here: str) -> None:
    assert check_compatible(describe("4.2.1"), cpu()[1], here) == []


def test_changed_library_is_told_with_what_it_was_and_is(tmp_path: Path) -> None:
    grown, other, gone = (tmp_path / name for name in ("grown.so", "other.so", "gone.so"))
    for path in (grown, other, gone):
        path.write_bytes(b"12345678")
    listed = inventory([OpenFile(str(p), "mapped", 8) for p in (grown, other, gone)], ())
    grown.write_bytes(b"123456789")
    other.write_bytes(b"87654321")
    gone.unlink()
    with pytest.raises(RestoreRefused) as caught:
        check_unchanged(listed)
    assert f"{grown} had 8 bytes and has 9 now" in caught.value.message
    assert f"{other} has other content" in caught.value.message
    assert f"{gone} is missing" in caught.value.message
    assert sys.executable not in caught.value.message


def test_connections_to_outside_are_named_save_those_of_the_kernel_itself() -> None:
    outer = [Connection(("10.0.0.2", 4000 + n), ("192.0.2.7", 443)) for n in range(2)]
    kernels = [Connection(("127.0.0.1", 5555), ("127.0.0.1", 40001))]
    (warning,) = lost_connections(InetSockets([], [], [*outer, *kernels]), [5555], "root")
    assert warning.startswith("2 network connection(s) to outside (192.0.2.7:443) will")
