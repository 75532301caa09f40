"""The command line in a working folder that was removed."""

from __future__ import annotations

import os

import pytest
from fake_kernels import KERNEL_ID, Shell, a_manifest, stored


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("JUPYTER_CKPT_DEBUG", raising=False)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    return Shell(capsys, tmp_path)


def test_what_needs_no_folder_works(shell: Shell) -> None:
    notebook = str(shell.folder / "gone" / "job.ipynb")
    shell.kernels.add(notebook=notebook)
    manifest = stored(shell.store, a_manifest(notebook={"path": notebook, "sha256": ""}))
    for args in (["list"], ["list", KERNEL_ID[:8]], ["list", notebook], ["ps"],
                 ["show", manifest.id]):
        ran = shell.run(*args)
        assert (ran.code, ran.err.partition("error")[1]) == (0, ""), ran.err
        assert notebook in ran.out
    for kernel in ([], [KERNEL_ID], [KERNEL_ID[:8]], [notebook]):
        assert shell.run("save", *kernel).code == 0


def test_checkpoints_of_a_kernel_that_ended_are_found_by_its_id(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    assert manifest.id[:8] in shell.run("list", KERNEL_ID[:8]).out
    assert shell.run("save", KERNEL_ID[:8], "--json").error["id"] == "kernel-not-found"


@pytest.mark.parametrize("args", [
    ["list", "job.ipynb"], ["save", "sub/job.ipynb"], ["stop", "./job"],
    ["list", "--store", "ckpt"], ["start"], ["start", "--notebook", "job.ipynb"],
])
def test_what_depends_on_the_folder_says_that_it_is_gone(shell: Shell, args) -> None:
    shell.kernels.add()
    stored(shell.store, a_manifest())
    error = shell.run(*args, "--json").error
    assert (error["code"], error["id"]) == (2, "usage")
    assert "folder is gone" in error["message"]
    assert "cd" in error["hint"]
    assert shell.kernels.calls == []


def test_relative_folders_of_the_environment_say_so_too(shell: Shell, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "runtime")
    assert "folder is gone" in shell.run("ps", "--json").error["message"]


def test_another_file_that_is_missing_is_not_blamed_on_it(shell: Shell) -> None:
    shell.kernels.add()
    shell.kernels.failure = FileNotFoundError(2, "No such file or directory", "/some/file")
    assert shell.run("save", "--json").error["id"] == "unexpected"
    with pytest.raises(FileNotFoundError):
        os.getcwd()
