"""The example notebooks are executed, as people execute them, from top to bottom."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from checkpointable import need_checkpoints

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
EXECUTE = "import sys; from nbclient.cli import main; sys.exit(main())"


class Executor:
    """Executes notebooks in a folder of its own, with Jupyter folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {name: value for name, value in os.environ.items()
                    if not name.startswith(("JPY_", "JUPYTER_"))}
        for name in ("data", "runtime", "config"):
            self.env[f"JUPYTER_{name.upper()}_DIR"] = str(folder / name)
        self.env.update(IPYTHONDIR=str(folder / "ipython"), JUPYTER_PLATFORM_DIRS="1")

    def write(self, name: str, **replaced: str) -> Path:
        """Copy a notebook here; `replaced` gives cells, by id, another source."""
        document = nbformat.read(NOTEBOOKS / name, as_version=4)
        for cell in document.cells:
            cell.source = replaced.get(cell.id, cell.source)
        path = self.folder / name
        nbformat.write(document, path)
        return path

    def execute(self, path: Path, provisioner: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", EXECUTE, "--inplace", path.name], cwd=self.folder,
            env={**self.env, "JUPYTER_DEFAULT_PROVISIONER_NAME": provisioner},
            capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def executor(tmp_path: Path) -> Executor:
    return Executor(tmp_path)


@pytest.fixture
def checkpoints() -> None:
    need_checkpoints()


def shown(path: Path, cell_id: str) -> str:
    """Return what a cell of an executed notebook shows, as text."""
    cell = next(c for c in nbformat.read(path, as_version=4).cells if c.id == cell_id)
    found: list[Any] = [o.get("text") or o.get("data", {}).get("text/plain", "")
                        for o in cell.outputs]
    return "".join(found)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_in_the_repository_is_clean(name: str) -> None:
    document = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(document)
    assert document.cells[0].cell_type == "markdown"
    for cell in document.cells:
        assert not cell.get("outputs"), f"{cell.id} has outputs"
        assert cell.get("execution_count") is None, f"{cell.id} was executed"
        assert all(len(line) <= 100 for line in cell.source.splitlines()), cell.id


@pytest.mark.usefixtures("checkpoints")
def test_quickstart_saves_and_runs_hooks(executor: Executor) -> None:
    path = executor.write("quickstart.ipynb")
    done = executor.execute(path, "ckpt-provisioner")
    assert done.returncode == 0, done.stderr
    assert shown(path, "save").startswith("Checkpoint ")
    assert shown(path, "object").startswith("saved ")
    assert shown(path, "whole-check") == "('169', True)"
    assert shown(path, "code") == "['tidied up before a checkpoint']"
    assert "a transaction is open" in shown(path, "refused")
    assert shown(path, "list").count("quickstart: ") == 3


def test_quickstart_in_an_ordinary_kernel_explains_itself(executor: Executor) -> None:
    done = executor.execute(executor.write("quickstart.ipynb"), "local-provisioner")
    assert done.returncode != 0
    assert "This kernel was not started by jupyter_ckpt" in done.stderr
    assert "jupyter ckpt doctor" in done.stderr


@pytest.mark.parametrize("provisioner", ["ckpt-provisioner", "local-provisioner"])
def test_long_job_ends_with_the_same_result_anywhere(
    executor: Executor, provisioner: str
) -> None:
    path = executor.write("long_job.ipynb", parameters="STEPS = 60\nSTEP_S = 0.0")
    done = executor.execute(path, provisioner)
    assert done.returncode == 0, done.stderr
    text = shown(path, "job")
    assert text.count("\n") == 60
    assert "finished: energy 45108432.60" in text
    assert "sum 90428" in text
