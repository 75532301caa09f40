"""Records of kernels that live (as the test's own process) or do not, and a server's backend."""

from __future__ import annotations

import os
from pathlib import Path

from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.owner import this_process

KERNELS = [f"11111111-aaaa-4000-8000-00000000000{n}" for n in range(3)]
GONE = ProcessId(4_000_000, 1)
"""Nobody: no process with such a number started in the first tick of a machine."""


def me() -> ProcessId:
    """Return the test's own process: one that surely lives."""
    found = ProcessId.of(os.getpid())
    assert found is not None
    return found


def backend_in(folder: Path) -> Backend:
    """Return the backend of a server (this process) that has all its folders in `folder`."""
    found = Backend(Locations(folder / "ckpt", folder, folder / "store"))
    found.owner = this_process(str(folder), "http://127.0.0.1:1/")
    return found
