"""Save and restore whole running Jupyter sessions.

In a kernel that was started by jupyter_ckpt::

    from jupyter_ckpt import checkpoint, on_checkpoint, on_restore

    here = checkpoint("before training")
    if here.restored:
        ...

`checkpoint` is what ``%checkpoint?`` describes. Elsewhere it raises
`jupyter_ckpt.errors.NotOurKernel`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself would take half of the time to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from .errors import CheckpointRefused

    F = TypeVar("F", bound=Callable[[], Any])

__version__ = "0.1.0"
__all__ = ["CheckpointRefused", "__version__", "checkpoint", "on_checkpoint", "on_restore"]


def checkpoint(name: str | None = None, note: str | None = None, pin: bool = False) -> Any:
    """Save this session; return an object with ``id``, ``restored``, ``size_bytes``, ``pause_s``.

    After a restore it returns a second time, with ``restored`` true. Raises
    `NotOurKernel` outside of a kernel with an agent, `CheckpointRefused` when a
    hook refuses, `TypeError` for arguments of other types.
    """
    return _of_this_kernel("checkpoint")(name, note, pin)


def on_checkpoint(function: F) -> F:
    """Run `function()` before every checkpoint of this kernel; usable as a decorator."""
    registered: F = _of_this_kernel("on_checkpoint")(function)
    return registered


def on_restore(function: F) -> F:
    """Run `function()` after every restore of this kernel; usable as a decorator."""
    registered: F = _of_this_kernel("on_restore")(function)
    return registered


def _of_this_kernel(name: str) -> Any:
    found = getattr(_shell(), name, None)
    if found is None:
        from .errors import NotOurKernel

        raise NotOurKernel(
            f"{name}() works inside a Python kernel that jupyter_ckpt has started.",
            "'jupyter ckpt start' starts one; in a Jupyter server with jupyter_ckpt "
            "enabled every kernel is one.")
    return found


def _shell() -> Any:
    import sys

    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def __getattr__(name: str) -> Any:
    if name == "CheckpointRefused":
        # The class of the code that runs in this kernel, when there is one.
        found = getattr(_shell(), name, None)
        if found is None:
            from .errors import CheckpointRefused as found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from .serverext import CheckpointApp

    return [{"module": "jupyter_ckpt.serverext", "app": CheckpointApp}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "@jupyter-ckpt/labextension"}]
