"""What the preflight finds is what CRIU cannot save, tried with trees that hold each thing."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import held_resources
import pytest
from held_resources import OTHERWISE, UNSAVED
from ordinary_user import ordinary_user

from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.engine.held import device_kind, mapping_kind
from jupyter_ckpt.engine.preflight import Finding, check_can_be_saved, findings
from jupyter_ckpt.engine.unsupported import UNSUPPORTED
from jupyter_ckpt.errors import CannotBeSaved, CheckpointError
from jupyter_ckpt.procfs import descendants

PROGRAM = Path(held_resources.__file__)
UNTRIED = {"gpu", "gpu-memory", "device-memory", "uprobes", "stuck", "other-user", "stopped"}
"""For want of the hardware, or because the tests' own machine or CRIU itself allows it."""


@pytest.fixture(scope="module", params=["root", "rootless"])
def outcomes(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What became of every tree in one mode: found, dumped, restored."""
    mode = request.param
    try:
        criu = find_criu().path
    except CheckpointError as error:
        pytest.skip(error.message)
    if mode == "root" and os.geteuid() != 0:
        pytest.skip("only root can test root mode")
    if mode == "rootless" and os.geteuid() == 0:
        with ordinary_user() as user:
            done = user.run(sys.executable, str(PROGRAM), mode, JUPYTER_CKPT_CRIU=str(criu))
    else:
        done = subprocess.run([sys.executable, str(PROGRAM), mode], text=True, check=False,
                              capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return mode, json.loads(done.stdout)


@pytest.mark.parametrize("name", UNSAVED)
def test_preflight_and_criu_agree(outcomes: tuple[str, dict[str, Any]], name: str) -> None:
    mode, found = outcomes[0], outcomes[1][name]
    if "unavailable" in found:
        pytest.skip(f"not to be had here: {found['unavailable']}")
    kind, modes, _ = UNSAVED[name]
    expected = [OTHERWISE.get((mode, kind), kind)] if mode in modes else []
    assert found["kinds"] == expected, found
    assert (found["failed"] is not None) == bool(expected), found


def test_what_can_be_saved_is_not_named(outcomes: tuple[str, dict[str, Any]]) -> None:
    found = outcomes[1]["saved"]
    assert found["kinds"] == []
    assert found["failed"] is None


def test_causes_in_the_log_are_named_too(outcomes: tuple[str, dict[str, Any]]) -> None:
    """Something may come between preflight and freeze: CRIU's own words are the last."""
    unclear = {name: each["failed"] for name, each in outcomes[1].items()
               if each.get("failed", "") and "privilege" in each["failed"]}
    assert unclear == {}


def test_finding_names_process_and_descriptor(outcomes: tuple[str, dict[str, Any]]) -> None:
    found = outcomes[1]["io_uring"]
    assert re.fullmatch(
        rf"process {found['pid']} \(python[\d.]*\) uses io_uring \(descriptor \d+\)", found["text"])


def test_every_line_of_the_list_is_tried() -> None:
    assert {kind for kind, _, _ in UNSAVED.values()} | UNTRIED == set(UNSUPPORTED)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_every_line_makes_a_sentence_and_an_advice(kind: str) -> None:
    finding = Finding(kind, 7, "python", "descriptor 3", "/dev/x")
    assert str(finding).startswith("process 7 (python) ")
    assert "{" not in str(finding) + finding.advice
    assert finding.advice.endswith(".")


def test_devices_of_graphics_processors_are_named_as_such() -> None:
    nvidia = os.makedev(195, 0)
    assert device_kind(stat.S_IFCHR, os.makedev(1, 3), "/dev/null") is None
    assert device_kind(stat.S_IFDIR, 0, "/dev/folder") is None
    assert device_kind(stat.S_IFBLK, os.makedev(254, 0), "/dev/vda") == ("device", "/dev/vda")
    assert device_kind(stat.S_IFCHR, nvidia, "/dev/nvidia0") == ("gpu", "/dev/nvidia0")
    assert mapping_kind("/dev/dri/renderD128") == ("gpu-memory", "/dev/dri/renderD128")
    assert mapping_kind("/dev/nvidiactl") == ("gpu-memory", "/dev/nvidiactl")
    assert mapping_kind("/dev/vfio/1") == ("device-memory", "/dev/vfio/1")
    assert mapping_kind("/dev/zero (deleted)") is None


def test_several_findings_stand_in_one_error() -> None:
    code = ("import ctypes, os, sys; a = [ctypes.CDLL(None).syscall(323, 1) for _ in range(6)]; "
            "print(a, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if "-1" in process.stdout.readline():
            process.kill()
            pytest.skip("no userfaultfd here")
        with pytest.raises(CannotBeSaved) as caught:
            check_can_be_saved(process.pid, "root", 1 << 30)
        assert len(findings(process.pid, "root", 1 << 30)) >= 6
        process.kill()
    assert caught.value.message.count("uses userfaultfd (descriptor") == 4
    assert "more" in caught.value.message
    assert caught.value.hint.count("End what uses it.") == 1


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_the_kernel_is_never_to_be_ended_by_its_number(kind: str) -> None:
    finding = Finding(kind, 7, "python", "descriptor 3", "/dev/x", is_kernel=True)
    assert str(finding).startswith("the kernel itself ")
    assert "end process" not in finding.advice.lower()
    assert ("restart the kernel" in finding.advice) == ("{end}" in UNSUPPORTED[kind].advice.lower())


def test_processes_are_named_as_their_user_sees_them() -> None:
    """By the pid on the host: the box's own is another process's there."""
    code = ("import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
            "stdin=sys.stdin, stdout=sys.stdout); print(p.pid, flush=True); p.wait()")
    held = ("import ctypes, sys; print(ctypes.CDLL(None).syscall(323, 1), flush=True); "
            "sys.stdin.read()")
    with subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--pid", "--fork", sys.executable, "-c", code,
             held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        printed = {process.stdout.readline().strip() for _ in range(2)}
        found = findings(process.pid, "root", 1 << 30)
        child = descendants(process.pid)[-1]
        by_kernel = findings(process.pid, "root", 1 << 30, kernel_pid=child)
        process.stdin.close()
    if "-1" in printed:
        pytest.skip("no userfaultfd here")
    assert "2" in printed, "the pid inside"
    [finding] = [each for each in found if each.kind == "userfaultfd"]
    assert finding.pid == child
    assert not finding.is_kernel
    assert [each.is_kernel for each in by_kernel if each.kind == "userfaultfd"] == [True]
