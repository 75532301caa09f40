"""``doctor`` names what is wrong and never fails itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpointable import need_checkpoints
from jupyter_harness import wait_until
from ordinary_user import OrdinaryUser, ordinary_user

from jupyter_ckpt import native_build
from jupyter_ckpt.cli.main import main
from jupyter_ckpt.doctor import LIMITS, doctor
from jupyter_ckpt.engine.unsupported import UNSUPPORTED
from jupyter_ckpt.privileges import MODES
from jupyter_ckpt.procfs import descendants
from jupyter_ckpt.store import Store

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
REPORT = "import json; from jupyter_ckpt.doctor import doctor; print(json.dumps(doctor()))"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_CKPT_CRIU", "JUPYTER_CKPT_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with ordinary_user() as found:
        yield found


def script(path: Path, body: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(mode)
    return path


def only_problem(found: dict[str, object]) -> dict[str, str]:
    problems = found["problems"]
    assert isinstance(problems, list)
    assert len(problems) == 1, problems
    assert set(problems[0]) == {"id", "message", "hint"}
    assert problems[0]["hint"]
    assert isinstance(problems[0], dict)
    assert found["process"] is False
    assert found["mode"] == "none"
    return problems[0]


@pytest.mark.parametrize("mode", MODES)
def test_limits_tell_of_inotify_where_it_is_refused(mode: str) -> None:
    told = any("inotify" in limit for limit in LIMITS[mode])
    assert told == (mode in UNSUPPORTED["inotify"].modes)


@AS_ROOT
def test_doctor_as_root_finds_everything_working() -> None:
    found = doctor()
    assert found["problems"] == []
    assert found["process"] is True
    assert found["mode"] == "root"
    assert set(found["criu"]) == {"path", "version"}
    assert found["selftest"]["mode"] == "root"
    json.dumps(found)


def test_doctor_as_ordinary_user_finds_rootless_working(user: OrdinaryUser) -> None:
    found = user.python(REPORT)
    assert found["problems"] == []
    assert (found["process"], found["mode"]) == (True, "rootless")
    assert found["limits"]
    assert found["modes"]["root"] == {
        "available": False, "why_not": found["modes"]["root"]["why_not"]}


def test_doctor_criu_that_exits_1_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = script(tmp_path / "criu", "echo all is lost >&2; exit 1")
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(broken))
    problem = only_problem(doctor())
    assert problem["id"] == "criu-broken"
    assert str(broken) in problem["message"]
    assert "all is lost" in problem["message"]
    assert "JUPYTER_CKPT_CRIU" in problem["hint"]


def test_doctor_criu_not_executable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(script(tmp_path / "criu", "exit 0", 0o644)))
    problem = only_problem(doctor())
    assert problem["id"] == "criu-broken"
    assert "not an executable file" in problem["message"]


def test_doctor_criu_at_wrong_path_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(tmp_path / "nowhere"))
    problem = only_problem(doctor())
    assert problem["id"] == "criu-missing"
    assert "JUPYTER_CKPT_CRIU" in problem["message"]


def test_doctor_criu_configured_wrongly_names_the_configuration(tmp_path: Path) -> None:
    problem = only_problem(doctor(str(tmp_path / "nowhere")))
    assert "configuration" in problem["message"]


def test_selftest_ends_children_before_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one that is stopped is continued when its parent dies, and goes on counting."""
    need_checkpoints()
    kill, killed, outlived = os.kill, set[int](), list[int]()

    def noted(pid: int, number: int) -> None:
        outlived.extend(set(descendants(pid)[1:]) - killed)
        killed.add(pid)
        kill(pid, number)

    monkeypatch.setattr(os, "kill", noted)
    assert doctor()["process"] is True
    assert len(killed) > 3
    assert outlived == []


def test_doctor_criu_that_only_tells_its_version_fails_the_selftest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`criu check` would call such a one good."""
    pretender = script(tmp_path / "criu", 'case "$1" in --version) echo Version: 3.17.1;; '
                                          "dump) exit 1;; esac")
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(pretender))
    found = doctor()
    problem = only_problem(found)
    assert found["criu"]["version"] == "3.17.1"
    assert problem["id"] == "criu-broken"
    assert "dump failed" in problem["message"]


def test_doctor_dump_that_writes_nothing_is_not_taken_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = script(tmp_path / "criu", "echo Version: 4.2.1")
    monkeypatch.setenv("JUPYTER_CKPT_CRIU", str(liar))
    monkeypatch.setattr("jupyter_ckpt.engine.selftest.COUNT_DEADLINE_S", 1.0)
    assert only_problem(doctor())["id"] == "criu-broken"


def test_doctor_forced_mode_that_cannot_be_had_is_named(user: OrdinaryUser) -> None:
    found = user.python(REPORT, JUPYTER_CKPT_MODE="root")
    assert only_problem(found)["id"] == "mode-unavailable"


def test_doctor_missing_native_program_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_build, "PREBUILT", tmp_path)
    monkeypatch.setattr(native_build, "_own_folder", lambda: None)
    found = doctor()
    assert found["process"] is False
    assert {"native-missing"} <= {problem["id"] for problem in found["problems"]}
    assert found["native"] == {"ckpt-box": None, "boxshim.so": None, "criushim.so": None}


def test_doctor_unusable_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(occupied / "runtime"))
    problems = doctor()["problems"]
    assert [problem["id"] for problem in problems] == ["folder-unusable"]
    assert "JUPYTER_RUNTIME_DIR" in problems[0]["hint"]


def test_doctor_leaves_no_process_behind(user: OrdinaryUser) -> None:
    """Every process of an ordinary user's doctor carries a mark in its environment."""
    mark = f"doctor-mark-{os.getpid()}"
    user.python(REPORT, CKPT_TEST_MARK=mark)
    wait_until(lambda: not any(_carries(pid, mark) for pid in os.listdir("/proc")
                               if pid.isdigit()), what="the last that it killed has ended")


def _carries(pid: str, mark: str) -> bool:
    try:
        return mark.encode() in Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return False  # ended meanwhile


def test_doctor_command_prints_one_json_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_ckpt.cli.main", "doctor", "--json"],
        capture_output=True, text=True, check=True, timeout=100)
    assert {"process", "mode", "criu", "problems"} <= set(json.loads(done.stdout))


def test_doctor_command_explains_problems_to_people(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_ckpt.cli.main", "doctor"], capture_output=True, text=True,
        check=True, timeout=100, env={**os.environ, "JUPYTER_CKPT_CRIU": str(tmp_path / "no")})
    assert "Saving whole sessions: no" in done.stdout
    assert "Problem: There is no criu at" in done.stdout


def open_to_others(store: Path) -> None:
    store.chmod(0o755)


def without_key(store: Path) -> None:
    Store.open(store).encrypt(store.parent / "key", make_key=True)
    (store.parent / "key").unlink()


def without_signing_key(store: Path) -> None:
    (store / "manifests" / "0123456789abcdef.json").touch()
    (store / "key").unlink()


def replaced_by_a_file(store: Path) -> None:
    shutil.rmtree(store)
    store.touch()


@pytest.mark.parametrize(("harm", "problem_id", "hint"), [
    (open_to_others, "store-unusable", "chmod"),
    (without_key, "encryption-key", "JUPYTER_CKPT_KEY_FILE"),
    (without_signing_key, "store-unusable", "backup"),
    (replaced_by_a_file, "store-unusable", "--store"),
])
@pytest.mark.parametrize("chosen", [True, False])
def test_doctor_store_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], None], problem_id: str, hint: str, chosen: bool,
) -> None:
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    store = tmp_path / "store" if chosen else tmp_path / "data" / "ckpt"
    Store.open(store)
    words = ["--store", str(store)] if chosen else []
    assert main(["doctor", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []
    harm(store)
    assert main(["doctor", "--json", *words]) == 0
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert set(problem) == {"id", "message", "hint"}
    assert problem["id"] == problem_id
    assert str(tmp_path) in problem["message"]
    assert hint in problem["hint"]
    main(["doctor", *words])
    said = capsys.readouterr().out
    assert "yes" not in said.splitlines()[0]
    assert "no, because of what stands below" in said.splitlines()[0]
    assert f"Problem: {problem['message']}" in said


@pytest.mark.parametrize("there", [True, False])
def test_doctor_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    store = tmp_path / "store"
    if there:
        store.mkdir(mode=0o700)
    main(["doctor", "--json", "--store", str(store)])
    assert json.loads(capsys.readouterr().out)["problems"] == []
    assert list(tmp_path.rglob("store/*")) == []
    assert store.exists() == there
