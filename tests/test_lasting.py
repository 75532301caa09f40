"""Checkpoints outlive an upgrade: what a session runs of ours stays, or comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt import lasting
from jupyter_ckpt.lasting import is_lasting, lasting_path, put_back


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of the package, and an environment that lasting copies go to."""
    program = tmp_path / "package" / "ckpt-box"
    program.parent.mkdir()
    program.write_bytes(b"first version")
    monkeypatch.setattr(lasting, "native_path", lambda name: program.with_name(name))
    monkeypatch.setattr(lasting, "install_folders", lambda: [tmp_path / "env", tmp_path / "data"])
    return program


def test_copy_stays_when_the_package_is_upgraded(program: Path) -> None:
    first = lasting_path("ckpt-box")
    assert (first, first.read_bytes()) == (lasting_path("ckpt-box"), b"first version")
    assert first.stat().st_mode & 0o777 == 0o755
    program.write_bytes(b"second version")
    second = lasting_path("ckpt-box")
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (b"first version", b"second version")


def test_copy_that_is_damaged_is_made_anew(program: Path) -> None:
    copy = lasting_path("ckpt-box")
    copy.write_bytes(b"first")
    assert lasting_path("ckpt-box").read_bytes() == b"first version"


def test_copies_go_to_the_users_folder_where_the_environment_is_not_his(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("no folder")
    assert lasting_path("ckpt-box").is_relative_to(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "data").write_text("no folder")
    assert lasting_path("ckpt-box") == program


def test_copy_that_is_gone_is_put_back(program: Path) -> None:
    copy = lasting_path("ckpt-box")
    copy.unlink()
    copy.parent.rmdir()
    put_back(str(copy), lambda: b"first version")
    assert copy.read_bytes() == b"first version"
    assert copy.stat().st_mode & 0o777 == 0o755


def test_nothing_else_is_put_back(program: Path, tmp_path: Path) -> None:
    copy = lasting_path("ckpt-box")
    copy.unlink()
    put_back(str(copy), lambda: b"other content")
    assert not copy.exists()
    for path in (tmp_path / "bin" / copy.parent.name / "ckpt-box",
                 copy.parent.parent / ".." / copy.parent.name / "ckpt-box"):
        assert not is_lasting(str(path))
        put_back(str(path), lambda: b"first version")
        assert not os.path.lexists(path)


def test_process_that_is_killed_while_it_writes_leaves_no_half_copy(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
            lasting_path("ckpt-box")
        finally:
            os._exit(0)  # it was not killed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    [folder] = (tmp_path / "env" / "programs").iterdir()
    assert not (folder / "ckpt-box").exists()
    assert lasting_path("ckpt-box").read_bytes() == b"first version"


# -- a real session -----------------------------------------------------------------------------
@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell with a Python environment of its own, which sees the packages of this one."""
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        environment = shell.home / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)],
                       check=True)
        (site,) = environment.glob("lib/python*/site-packages")
        (site / "parent.pth").write_text(
            f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
        shell.python = str(environment / "bin" / "python")
        yield shell


def test_session_comes_back_when_what_it_ran_of_ours_is_gone(shell: Shell) -> None:
    kernel = shell.ckpt("start")
    talker = Talker(kernel["connection_file"])
    talker.run("x = 41")
    talker.close()
    saved = shell.ckpt("save", kernel["kernel_id"])
    shell.ckpt("stop", kernel["kernel_id"])
    programs = shell.home / "venv" / "share" / "jupyter" / "ckpt" / "programs"
    names = {path.name for path in programs.glob("*/*")}
    assert names == {"ckpt-box", "boxshim.so"}
    programs.rename(programs.with_name("gone"))
    restored = shell.ckpt("restore", saved["id"], "--no-server")
    assert restored["warnings"] == []
    talker = Talker(restored["connection_file"])
    assert talker.run("print(x + 1)") == "42"
    talker.close()
    assert {path.name for path in programs.glob("*/*")} == names
