"""What a checkpoint says of its session, beside the images: checked before it is believed.

The signature vouches for every byte; it does not vouch for a mistake of an
older version, nor for the good will of somebody else's key. So nothing in here
may name a place outside the folders it speaks of.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import IntegrityError
from ..shapes import misfit

FILES = [{"path": Path, "role": str, "saved": bool, "size_bytes": int, "mtime_ns": int,
          "mode?": int, "content?": str, "blake3?": str, "group?": Path, "absent?": [Path]}]
LIBRARIES = [{"path": Path, "size_bytes": int, "mtime_ns": int, "ctime_ns": int, "inode": int,
              "blake3": str, "sampled?": bool}]
SHARED_MEMORY = [{"path": Path, "mode": int, "content?": str, "target?": Path}]
DETAILS = {
    "root_pid": int, "kernel_pid": int, "highest_pid": int, "mode": str, "inner_runtime": Path,
    "runtime": Path, "connection": (dict, None), "connection_file": Path, "cwd": Path,
    "injected": bool, "link_seen?": bool, "env": dict, "working_folders": dict,
    "cpu_flags": [str], "epoch": int,
    "session": (dict, None), "internal_ports": [int], "schedule?": (dict, None),
}
_CONTENT = re.compile(r"(files|shm)/\d{1,9}")


def parsed(data: bytes, shape: Any, name: str) -> Any:
    """Return the JSON of the checkpoint's file `name`; raise `IntegrityError` on another shape."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} of the checkpoint is no JSON.") from error
    return checked(found, shape, name)


def checked(found: Any, shape: Any, name: str) -> Any:
    """Return `found` if it has `shape`, and names contents of the checkpoint only."""
    place = misfit(found, shape)
    if place is not None:
        raise IntegrityError(f"{name} of the checkpoint is malformed: {place[:100]}.",
                             "Use another checkpoint.")
    for entry in found if isinstance(found, list) else ():
        if not _CONTENT.fullmatch(entry.get("content", "files/0")):
            raise IntegrityError(f"{name} of the checkpoint names a content outside of it.")
        if entry.get("saved") and "content" not in entry:
            raise IntegrityError(f"{name} of the checkpoint lacks a content.")
    return found
