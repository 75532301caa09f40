"""The folders, programs and environment of one user whose kernels suffer."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.store import Store

STAND_IN = Path(__file__).with_name("stand_in_criu.py")


class Place:
    """A Jupyter home below `folder`; this process's environment points to it."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode
        self.work = folder / "work"
        self._criu = folder / "criu-stage"
        for path in (self.work, self._criu / "real"):
            path.mkdir(mode=0o755, parents=True)
        shutil.copy(_real_criu(), self._criu / "real" / "criu")
        self._install_stand_in()
        os.environ.update(
            HOME=str(folder), JUPYTER_DATA_DIR=str(folder / "data"),
            JUPYTER_RUNTIME_DIR=str(folder / "runtime"), IPYTHONDIR=str(folder / "ipython"),
            JUPYTER_CONFIG_DIR=str(folder / "config"), JUPYTER_PLATFORM_DIRS="1",
            JUPYTER_CKPT_MODE=mode, JUPYTER_CKPT_CRIU=str(self._criu / "criu"),
            PYTHONDONTWRITEBYTECODE="1")
        self.locations = Locations.default()
        self.reopen_store()

    def reopen_store(self) -> None:
        """Begin a store, after the folder was emptied perhaps."""
        self.store = Store.open(self.locations.store_dir)

    def _install_stand_in(self) -> None:
        program = self._criu / "criu"
        python = os.path.realpath(sys.executable)
        program.write_text(f"#!{python} -IS\n{STAND_IN.read_text()}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def stage_scene(self, verb: str, name: str) -> None:
        """Let the next criu of `verb` misbehave; ``killed-after-ms-40`` takes a number."""
        (self._criu / "played").unlink(missing_ok=True)
        head, _, last = name.rpartition("-")
        words = [verb, head, last] if last.isdigit() else [verb, name]
        (self._criu / "scene").write_text(" ".join(words))

    def end_scene(self) -> None:
        (self._criu / "scene").unlink(missing_ok=True)

    def scene_played(self) -> bool:
        return (self._criu / "played").exists()

    def record_file(self, kernel_id: str) -> Path:
        return self.locations.folder(kernel_id) / "record.json"

    def kernel_environment(self) -> dict[str, Any]:
        """Return a kernel's environment: ours, but no plan is for it."""
        return {name: value for name, value in os.environ.items()
                if name not in ("JUPYTER_CKPT_FAULTS", "JPY_PARENT_PID")}


@functools.cache
def _real_criu() -> Path:
    """Return the criu found first: later the environment names a stand-in."""
    return find_criu().path.resolve()
