"""What an agent that died had started for a kernel that nobody has recorded."""

from __future__ import annotations

import logging
from pathlib import Path

from .box.contract import end_boxes_of, identities, kill_and_wait
from .engine.holders import holders
from .errors import CheckpointError

log = logging.getLogger(__name__)


def restore_mark(kernel_id: str) -> str:
    """Return what the command lines hold of every criu that restores this kernel."""
    return f"+{kernel_id}+restore+"  # no id holds a plus sign


def end_remains(folder: Path) -> None:
    """End every criu that restores the kernel of a runtime folder, and every box of it.

    Called by who has the place of its agent, where no kernel of it can live. A
    criu that dumps is left alone: it holds a tree, which it lets go by itself.
    Raises `LaunchFailed` naming what does not end.
    """
    while restoring := holders(restore_mark(folder.name)):
        log.warning("a restore of kernel %s is ended: its agent has died", folder.name)
        # With what it has made of the tree, before that is nobody's child.
        kill_and_wait([each for criu in restoring for each in identities(criu)])
    end_boxes_of(folder)


def try_to_end_remains(folder: Path) -> None:
    """`end_remains`, and log what does not end."""
    try:
        end_remains(folder)
    except CheckpointError as error:
        log.error("%s", error.message)
