"""Who shows a kernel: the owner entry of a runtime record."""

from __future__ import annotations

import os
from typing import Any

from ..procfs import ProcessId
from ..record import Record


def this_process(root_dir: str, url: str) -> dict[str, Any]:
    """Return the owner entry of the server in this process."""
    pid = os.getpid()
    identity = ProcessId.of(pid)
    return {
        "pid": pid,
        "start_time": identity.start_time if identity else 0,
        "root_dir": os.path.realpath(root_dir),
        "url": url,
    }


def released(owner: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a kernel that `owner` has let go: of the same folder, nobody's.

    No process has pid 0, so whoever asks for its owner finds it dead.
    """
    return {**owner, "pid": 0, "start_time": 0}


def is_orphan_of(record: Record, root_dir: str) -> bool:
    """Tell whether the kernel's server served the same folder and is dead, or let it go.

    A headless kernel (no owner) is nobody's orphan: it was started to live
    without a server.
    """
    owner = record.owner
    if not owner or owner.get("root_dir") != os.path.realpath(root_dir):
        return False
    try:
        identity = ProcessId.from_dict(owner)
    except (KeyError, TypeError, ValueError):
        return True
    return identity is None or not identity.is_alive()
