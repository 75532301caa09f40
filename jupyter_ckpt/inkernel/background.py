"""What may change a session although no cell is run: threads and tasks of its user's."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

_OURS = ("ipykernel", "IPython", "tornado", "zmq", "jupyter_client", "anyio", "jupyter_ckpt")
"""Packages whose threads and tasks an idle kernel has by itself."""


def has_background(kernel: Any) -> bool:
    """Tell whether there are threads or asyncio tasks that are not the kernel's own.

    In doubt there are.
    """
    try:
        return (any(not _is_own_thread(thread) for thread in threading.enumerate())
                or any(not _is_own_task(task) for task in _tasks(kernel)))
    except Exception:
        return True


def _is_own_thread(thread: threading.Thread) -> bool:
    # ipykernel, and we like it, hide what is not the user's from the debugger.
    return (thread is threading.main_thread()
            or bool(getattr(thread, "is_pydev_daemon_thread", False))
            or _is_ours(type(thread).__module__)
            or _is_ours(str(getattr(getattr(thread, "_target", None), "__module__", ""))))


def _tasks(kernel: Any) -> set[Any]:
    loop = getattr(getattr(kernel, "io_loop", None), "asyncio_loop", None)
    return asyncio.all_tasks(loop) if loop is not None else set()


def _is_own_task(task: Any) -> bool:
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is None or _is_ours(str(frame.f_globals.get("__name__")))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS
