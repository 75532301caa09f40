"""Ctrl-C while agents or a server act: nothing is taken away from what goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_kernels import KERNEL_ID, Shell, a_manifest, stored

import jupyter_ckpt
from jupyter_ckpt import kernels
from jupyter_ckpt.agent.jobs import JobTable
from jupyter_ckpt.client import AgentClient
from jupyter_ckpt.errors import AgentUnreachable
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.record import Record

FATES = [
    (False, None, "nothing has changed"), (True, None, "goes on"),
    (False, AgentUnreachable("It is gone."), "not known: It is gone."),
]


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    (tmp_path / "work").mkdir()
    shell = Shell(capsys, tmp_path / "work")
    shell.kernels.failure = KeyboardInterrupt()
    return shell


def set_fate(shell: Shell, goes_on: bool, problem: AgentUnreachable | None) -> bool:
    """Choose what becomes of the request; tell whether its files must stay."""
    shell.kernels.goes_on, shell.kernels.cancel_failure = goes_on, problem
    return goes_on or problem is not None


@pytest.mark.parametrize(("goes_on", "problem", "sentence"), FATES)
@pytest.mark.parametrize("mode", ["--new", "--in-place"])
def test_copy_of_the_notebook_stays_while_its_restore_goes_on(
    shell: Shell, mode, goes_on, problem, sentence
) -> None:
    stays = set_fate(shell, goes_on, problem)
    notebook = {"path": str(shell.folder / "job.ipynb"), "sha256": ""}
    manifest = stored(shell.store, a_manifest(notebook=notebook), document=b"{}")
    ran = shell.run("restore", manifest.id, mode)
    assert ran.code == 130
    assert sentence in ran.err
    assert shell.kernels.taken_back == [shell.kernels.requested]
    assert (shell.folder / "job-restored.ipynb").exists() == (stays and mode == "--new")


@pytest.mark.parametrize(("goes_on", "problem", "sentence"), FATES)
def test_connection_file_stays_while_its_kernel_starts(
    shell: Shell, goes_on, problem, sentence
) -> None:
    stays = set_fate(shell, goes_on, problem)
    ran = shell.run("start")
    assert ran.code == 130
    assert sentence in ran.err
    ((kernel_id, kind, _),) = shell.kernels.taken_back
    assert kind == "launches"
    assert shell.locations.connection_file(kernel_id).exists() == stays


def test_interrupted_fork_says_what_becomes_of_the_copy(shell: Shell) -> None:
    shell.kernels.add()
    set_fate(shell, True, None)
    ran = shell.run("fork", KERNEL_ID)
    assert ran.code == 130
    assert "jupyter ckpt stop copy-0" in ran.err
    assert shell.kernels.taken_back == [("copy-0", "restores", "request-of-copy-0")]


def test_copies_that_were_made_are_stopped_when_a_fork_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[str] = []
    stopped: list[str] = []

    def restore(locations, manifest, *, kernel_id, **more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(kernel_id)
        return {"kernel_id": kernel_id, "connection_file": "", "warnings": []}

    def stop(locations, record):
        stopped.append(record.kernel_id)
        if len(stopped) == 1:
            raise AgentUnreachable("This one does not end.")

    monkeypatch.setattr(kernels, "save", lambda *args, **more: a_manifest())
    monkeypatch.setattr(kernels, "restore", restore)
    monkeypatch.setattr(kernels, "stop", stop)
    monkeypatch.setattr(kernels, "read_record", lambda folder: Record(folder.name))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    requests: list[tuple[str, ...]] = []
    with pytest.raises(KeyboardInterrupt):
        kernels.fork(Locations.default(), Record(KERNEL_ID), 3,
                     on_request=lambda *request: requests.append(request))
    assert stopped == made
    assert [kind for _, kind, _ in requests] == ["checkpoints"] + ["restores"] * 3
    assert [kernel for kernel, _, _ in requests[1:3]] == made


def test_request_is_taken_back_only_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the agent's own table of jobs behind the client."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    locations, table, release = Locations.default(), JobTable(), threading.Event()
    began = threading.Event()

    def act(job):
        began.set()
        release.wait(30)
        return {"kernel_id": "k"}

    assert kernels.take_back(locations, "no-such-kernel", "restores", "request-0") is False
    monkeypatch.setattr(AgentClient, "cancel",
                        lambda self, kind, request_id: table.cancel(kind, request_id))
    assert kernels.take_back(locations, "kernel", "restores", "request-0") is False
    table.put("restores", "request-1", act)
    table.put("restores", "request-2", act)
    assert began.wait(30)
    assert kernels.take_back(locations, "kernel", "restores", "request-1") is True
    assert kernels.take_back(locations, "kernel", "restores", "request-2") is False
    release.set()


@pytest.mark.parametrize("program", [
    [sys.executable, "-m", "jupyter_ckpt.cli.main"],
    [str(Path(sys.executable).parent / "jupyter-ckpt")],
])
def test_interrupt_while_modules_are_loaded_exits_130(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *words], capture_output=True, text=True, timeout=60, env=environment,
            # Whoever runs the tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    ran = run("list")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "error: Interrupted.\n")
    ran = run("list", "--json")
    assert (ran.returncode, ran.stderr) == (130, "")
    assert json.loads(ran.stdout)["error"]["code"] == 130


def test_entry_loads_nothing_that_an_interrupt_could_hit() -> None:
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", "import sys; before = set(sys.modules)\n"
         f"sys.path.append({str(Path(jupyter_ckpt.__file__).parent.parent)!r})\n"
         "import jupyter_ckpt.cli.main; print(*sorted(set(sys.modules) - before))"],
        capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert loaded == ["__future__", "jupyter_ckpt", "jupyter_ckpt.cli", "jupyter_ckpt.cli.main"]


def test_interrupt_writes_no_empty_line(shell: Shell) -> None:
    shell.kernels.add()
    assert "" not in shell.run("save").err.splitlines()
