"""`make` says what it needs before it begins what would fail without it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_SUCH_PROGRAM = "exit 127"
COMPLAINT = "needs Node 20.19 or newer"


def make_labextension(folder: Path, node: str, npm: str = "echo npm $1; [ $1 != ci ]") -> str:
    """Make the extension with these two programs in place of Node; return what make says."""
    programs, stamps = folder / "bin", folder / "venv" / "stamps"
    programs.mkdir()
    stamps.mkdir(parents=True)
    for stamp in ("system", "venv"):
        (stamps / stamp).touch()
    for name, line in (("node", node), ("npm", npm)):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["make", f"VENV={folder / 'venv'}", str(stamps / "labextension")], cwd=ROOT, text=True,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}, timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 2
    assert not (stamps / "labextension").exists()
    return done.stdout


@pytest.mark.parametrize("version", ["v20.19.0", "v20.20.2", "v22.12.0", "v24.1.0"])
def test_node_that_is_new_enough_gets_to_work(tmp_path: Path, version: str) -> None:
    said = make_labextension(tmp_path, f"echo {version}")
    assert "npm ci" in said
    assert COMPLAINT not in said


@pytest.mark.parametrize("node", [
    "echo v18.20.4", "echo v20.18.3", "echo v21.7.0", "echo v22.11.0", NO_SUCH_PROGRAM])
def test_node_that_is_too_old_or_missing_is_named_before_anything_is_installed(
        tmp_path: Path, node: str) -> None:
    said = make_labextension(tmp_path, node)
    assert COMPLAINT in said
    assert "npm ci" not in said


def test_npm_that_is_missing_is_named(tmp_path: Path) -> None:
    assert COMPLAINT in make_labextension(tmp_path, "echo v20.19.0", NO_SUCH_PROGRAM)
