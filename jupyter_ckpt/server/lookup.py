"""Finding the kernel and the session a request means."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from jupyter_core.utils import ensure_async

from ..errors import KernelNotFound, NotOurKernel
from ..protocol import checked_kernel_id
from ..provisioner import CheckpointProvisioner
from ..record import Record
from .backend import Backend
from .documents import without_drive

LAUNCH_DEADLINE_S = 15.0
POLL_S = 0.05


async def our_record(backend: Backend, kernel_manager: Any, kernel_id: str) -> Record:
    """Return the record of a living kernel that has an agent.

    Raises `KernelNotFound` for an unknown or dead kernel, and `NotOurKernel`
    for one that Jupyter runs without us.
    """
    checked_kernel_id(kernel_id)
    try:
        record = await backend.run(backend.record, kernel_id)
    except KernelNotFound:
        if kernel_id not in kernel_manager:
            raise
        raise NotOurKernel(
            f"Kernel {kernel_id} was not started by jupyter_ckpt, so it has no agent.",
            "Restart the kernel; if it stays like this, 'jupyter ckpt doctor' tells why.") from None
    if not record.is_alive():
        raise KernelNotFound(f"Kernel {kernel_id} has ended.",
                             "Restore its last checkpoint: 'jupyter ckpt list' shows it.")
    return record


def record_shown(kernel_manager: Any, kernel_id: str) -> Record | None:
    """Return the record of a kernel of ours that the server shows, else None."""
    if kernel_id not in kernel_manager:
        return None
    provisioner = kernel_manager.get_kernel(kernel_id).provisioner
    return provisioner.record if isinstance(provisioner, CheckpointProvisioner) else None


async def await_launch(kernel_manager: Any, kernel_id: str) -> None:
    """Wait for a kernel that is just being started (again), as after a crash, or ended.

    Returns when it has its record, is none of ours, or `LAUNCH_DEADLINE_S` have passed.
    Raises `KernelNotFound` when it was ended.
    """
    deadline = time.monotonic() + LAUNCH_DEADLINE_S
    while time.monotonic() < deadline and kernel_id in kernel_manager:
        manager = kernel_manager.get_kernel(kernel_id)
        provisioner = manager.provisioner
        ours = provisioner is None or isinstance(provisioner, CheckpointProvisioner)
        lives = getattr(provisioner, "record", None) is not None and not manager.shutting_down
        if not ours or lives:
            return
        await asyncio.sleep(POLL_S)
    if kernel_id not in kernel_manager:
        raise KernelNotFound(f"Kernel {kernel_id} was shut down just now.",
                             "Restore again: it comes back with its notebook.")


async def session_of_kernel(session_manager: Any, kernel_id: str) -> dict[str, Any] | None:
    """Return the model of the session that shows a kernel: its notebook's, if it has one."""
    sessions = await ensure_async(session_manager.list_sessions())
    ours = [model for model in sessions if model["kernel"]["id"] == kernel_id]
    notebooks = [model for model in ours if model["type"] == "notebook"]
    return next(iter([*notebooks, *ours]), None)


async def session_of_path(session_manager: Any, path: str) -> dict[str, Any] | None:
    """Return the model of the session of a notebook path, with a drive before it or without."""
    wanted = without_drive(path)
    sessions = await ensure_async(session_manager.list_sessions())
    return next((model for model in sessions if without_drive(model["path"]) == wanted), None)
