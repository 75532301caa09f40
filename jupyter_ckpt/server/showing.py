"""Showing a kernel that was restored or copied: in Jupyter, and on a notebook."""

from __future__ import annotations

import posixpath
from typing import Any

from jupyter_core.utils import ensure_async

from ..record import Record
from .adoption import show_kernel, tell_state
from .backend import Backend


async def open_kernel(
    kernel_manager: Any,
    session_manager: Any,
    record: Record,
    path: str | None,
    running: dict[str, Any] | None,
    backend: Backend,
) -> dict[str, Any] | None:
    """Show a living kernel in Jupyter and give it a session on `path`, if any.

    When Jupyter cannot show it the kernel is ended again: nobody would know it.
    """
    try:
        await show_kernel(kernel_manager, record)
        await tell_state(kernel_manager.get_kernel(record.kernel_id), running)
        if path is None:
            await backend.run(backend.note_session, record, None, None)
            return None
        model: dict[str, Any] = await ensure_async(session_manager.create_session(
            path=path, name=posixpath.basename(path), type="notebook",
            kernel_name=record.kernel_name, kernel_id=record.kernel_id))
        return model
    except BaseException:
        if record.kernel_id in kernel_manager:  # or its restarter would start a fresh one
            await ensure_async(kernel_manager.shutdown_kernel(record.kernel_id, now=True))
        await backend.run(backend.stop, record)
        raise
