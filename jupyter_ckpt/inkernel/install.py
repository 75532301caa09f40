"""Giving one kernel its in-kernel part; called once by `startup.py`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .failures import CheckpointFailed, CheckpointRefused
from .history import History
from .magic import CheckpointMagic
from .session import Session


def install(shell: Any, runtime: str) -> Session:
    """Make `shell` checkpointable through the agent in folder `runtime`.

    Parts that this version of IPython or ipykernel does not allow are left out,
    with one line each. Raises OSError when the socket cannot be made; the kernel
    is unchanged then.
    """
    session = Session(shell, runtime)
    kernel = shell.kernel
    _try("the cell that runs cannot be told",
         lambda: session.journal.watch_requests(kernel))
    _try("what widgets run is not counted",
         lambda: session.journal.watch_callbacks(kernel))
    _try("outputs are not followed",
         lambda: session.journal.watch_outputs(kernel.iopub_thread, kernel.session.unpack))
    _try("history is not looked after", lambda: _watch_history(session, shell))
    _try("there is no %checkpoint", lambda: CheckpointMagic(shell, session).register())
    _offer(session, shell)
    session.link.start()
    return session


def _offer(session: Session, shell: Any) -> None:
    """Put the Python interface on `shell`, and on its `checkpoint`, too."""
    @functools.wraps(session.checkpoint)
    def checkpoint(*arguments: Any, **named: Any) -> Any:
        return session.checkpoint(*arguments, **named)

    for name, value in {
        "checkpoint": checkpoint, "on_checkpoint": session.on_checkpoint.add,
        "on_restore": session.on_restore.add, "CheckpointRefused": CheckpointRefused,
        "CheckpointFailed": CheckpointFailed,
    }.items():
        setattr(shell, name, value)
        setattr(checkpoint, name, value)


def _watch_history(session: Session, shell: Any) -> None:
    manager = shell.history_manager
    if manager is not None:
        session.history = History(manager)


def _try(without: str, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        print(f"jupyter_ckpt: {without}: {type(error).__name__}: {error}", file=sys.stderr)
