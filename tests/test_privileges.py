"""Which privilege mode is chosen, and that each refusal names its reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary_user import OrdinaryUser, ordinary_user

from jupyter_ckpt import privileges
from jupyter_ckpt.engine.criu_find import CriuBinary, find_criu
from jupyter_ckpt.errors import ModeUnavailable, UsageError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

DECIDE = """
import json, sys
from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.engine.selftest import selftest
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.privileges import decide_mode
try:
    criu = find_criu()
    mode = decide_mode(criu)
    passed = None if mode.name == "none" else selftest(criu.path, mode.name).to_dict()
    print(json.dumps({"mode": mode.name, "rejected": mode.rejected, "why": mode.why,
                      "selftest": passed}))
except CheckpointError as error:
    print(json.dumps({"error": error.to_dict()}))
"""


@pytest.fixture
def criu() -> CriuBinary:
    return find_criu()


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as found:
        yield found


@pytest.fixture
def capable_criu(user: OrdinaryUser, criu: CriuBinary) -> Path:
    """A copy of criu with file capabilities, in a folder all may read."""
    copy = user.home.parent / "criu-with-caps"
    shutil.copyfile(criu.path, copy)
    copy.chmod(0o755)
    setcap = shutil.which("setcap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if setcap is None:
        pytest.fail("setcap is missing: install libcap2-bin, as 'make test' does")
    subprocess.run([setcap, privileges.FILE_CAPABILITIES, str(copy)], check=True)
    return copy


@AS_ROOT
def test_decide_mode_as_root_is_root(criu: CriuBinary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_CKPT_MODE", raising=False)
    mode = privileges.decide_mode(criu)
    assert (mode.name, mode.rejected, mode.why) == ("root", {}, "")


def test_decide_mode_as_ordinary_user_is_rootless(user: OrdinaryUser) -> None:
    found = user.python(DECIDE)
    assert found["mode"] == "rootless"
    assert list(found["rejected"]) == ["root"]
    assert "CAP_SYS_ADMIN" in found["why"]
    assert found["selftest"]["mode"] == "rootless"


def test_decide_mode_forced_caps_without_file_capabilities_tells_setcap(user: OrdinaryUser) -> None:
    found = user.python(DECIDE, JUPYTER_CKPT_MODE="caps")
    assert found["error"]["id"] == "mode-unavailable"
    assert found["error"]["code"] == 4
    assert "has no file capabilities" in found["error"]["message"]
    assert "setcap" in found["error"]["hint"]


def test_decide_mode_forced_caps_with_file_capabilities_saves_and_restores(
    user: OrdinaryUser, capable_criu: Path
) -> None:
    found = user.python(DECIDE, JUPYTER_CKPT_MODE="caps", JUPYTER_CKPT_CRIU=str(capable_criu))
    assert found["mode"] == "caps"
    assert found["selftest"]["mode"] == "caps"


def test_decide_mode_forced_root_as_ordinary_user_is_refused(user: OrdinaryUser) -> None:
    found = user.python(DECIDE, JUPYTER_CKPT_MODE="root")
    assert found["error"]["id"] == "mode-unavailable"
    assert "CAP_SYS_ADMIN" in found["error"]["message"]


def test_decide_mode_where_all_is_forbidden_is_none_with_every_reason(user: OrdinaryUser) -> None:
    """As in a container with default settings."""
    found = user.python(_WITHOUT_NAMESPACES + DECIDE)
    assert found["mode"] == "none"
    assert "CAP_SYS_ADMIN" in found["rejected"]["root"]
    assert "user namespace cannot be made" in found["rejected"]["rootless"]
    assert "file capabilities" in found["rejected"]["caps"]


# The process moves into a user namespace that may have no further ones, and
# gives up what it gained there.
_WITHOUT_NAMESPACES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
uid = os.getuid()
assert libc.unshare(0x10000000) == 0
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"{uid} {uid} 1")
open("/proc/self/gid_map", "w").write(f"{uid} {uid} 1")
open("/proc/sys/user/max_user_namespaces", "w").write("0")
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert libc.syscall(126, header, (ctypes.c_uint32 * 6)()) == 0
"""


def test_decide_mode_none_is_always_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_MODE", "none")
    mode = privileges.decide_mode(None)
    assert mode.name == "none"
    assert mode.why == "JUPYTER_CKPT_MODE is 'none'."


def test_decide_mode_without_criu_rejects_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_CKPT_MODE", raising=False)
    mode = privileges.decide_mode(None)
    assert mode.name == "none"
    assert set(mode.rejected) == set(privileges.MODES)


def test_decide_mode_unknown_name_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_MODE", "superuser")
    with pytest.raises(UsageError, match="not a privilege mode"):
        privileges.decide_mode(None)


def test_decide_mode_forced_without_criu_is_unavailable() -> None:
    with pytest.raises(ModeUnavailable, match="no criu"):
        privileges.decide_mode(None, "rootless")


def test_file_capabilities_of_a_plain_file_are_none(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert privileges.file_capabilities(plain) == 0


def test_file_capabilities_reads_both(capable_criu: Path) -> None:
    granted = privileges.file_capabilities(capable_criu)
    wanted = 1 << privileges.CAP_CHECKPOINT_RESTORE | 1 << privileges.CAP_SETPCAP
    assert granted == wanted
