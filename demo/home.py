"""The demo's own folders: nothing of the user's Jupyter is read or written."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from jupyter_ckpt import kernels
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.record import Record, all_records

from .processes import kill_all, marked_with, trees

KILL_ROUNDS = 20

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "long_job.ipynb"
_SETTINGS = ("data", "runtime", "config", "ipython")


class Home:
    """A temporary user: data, runtime, configuration and notebooks.

    Leaving it ends every process that was started with its environment, and
    removes the folders.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """Make the folders in `parent` (default: where temporary files go)."""
        self.folder = Path(tempfile.mkdtemp(prefix="jupyter-ckpt-demo-", dir=parent))
        self.work = self.folder / "work"
        self.reference_work = self.folder / "reference"
        for name in (*_SETTINGS, "work", "reference"):
            (self.folder / name).mkdir(mode=0o700)
        for folder in (self.work, self.reference_work):
            shutil.copy(NOTEBOOK, folder)

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            # An impatient second Ctrl-C must not leave processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.end_all()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """The environment of everything the demo starts."""
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("JPY_", "JUPYTER_"))
                or name.startswith("JUPYTER_CKPT_")}
        return {**kept, "JUPYTER_DATA_DIR": str(self.folder / "data"),
                "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
                "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
                "IPYTHONDIR": str(self.folder / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}

    def records(self) -> list[Record]:
        """Return the runtime records of the kernels here."""
        return all_records(self.folder / "runtime" / "ckpt")[0]

    def end_all(self) -> None:
        """End whatever runs here: kernels as a user would, the rest with SIGKILL."""
        runtime = self.folder / "runtime"
        places = Locations(runtime / "ckpt", runtime, self.folder / "data" / "ckpt")
        for record in self.records():
            if record.is_alive():
                with suppress(CheckpointError):  # then SIGKILL does it
                    kernels.stop(places, record)
        for _ in range(KILL_ROUNDS):  # what is killed may have started something just before
            named = [identity.pid for record in self.records()
                     for identity in (record.init, record.root, record.kernel, record.agent)
                     if identity is not None and identity.is_alive()]
            left = trees(named) | marked_with(str(self.folder))
            if not left:
                return
            kill_all(left)
