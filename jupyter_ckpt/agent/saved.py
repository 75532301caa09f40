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

from ..errors import IntegrityError, UsageError
from ..plan import Schedule, of_checkpoint
from ..shapes import misfit

FILES = [{"path": Path, "role": str, "saved": bool, "size_bytes": int, "mtime_ns": int,
          "mode?": int, "uid?": int, "gid?": int, "content?": str, "blake3?": str,
          "group?": Path, "absent?": [Path]}]
LIBRARIES = [{"path": Path, "size_bytes": int, "mtime_ns": int, "ctime_ns": int, "inode": int,
              "blake3": str, "sampled?": bool}]
SHARED_MEMORY = [{"path": Path, "mode": int, "content?": str, "target?": Path}]
DETAILS = {
    "root_pid": int, "kernel_pid": int, "highest_pid": int, "mode": str, "inner_runtime": Path,
    "runtime": Path, "connection": (dict, None), "connection_file": Path, "cwd": Path,
    "injected": bool, "link_seen?": bool, "env": dict, "working_folders": dict,
    "cpu_flags": [str], "epoch": int,
    "session": (dict, None), "internal_ports": [int], "schedule?": (dict, None),
    "file_hashes?": dict, "programs?": dict,
}
_PROGRAM = re.compile(r"programs/\d{1,3}")
_CONTENT = re.compile(r"(files|shm)/\d{1,9}")


def with_hashes(files: list[dict[str, Any]], details: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the manifest's `files` with the hashes of their contents that `details` hold.

    The manifest itself holds none: in an encrypted store anybody may read it, and compare
    them with those of files he has. (Older checkpoints do.) Raises `IntegrityError`.
    """
    hashes = details.get("file_hashes", {})
    return [{**entry, "blake3": hashes[entry["content"]]} if entry.get("content") in hashes
            else entry for entry in checked(files, FILES, "The list of files")]


def programs(details: dict[str, Any]) -> dict[str, str]:
    """Return {content name: path} of our own programs that a session runs."""
    found = details.get("programs", {})
    if not all(_PROGRAM.fullmatch(name) and isinstance(path, str) and path.startswith("/")
               for name, path in found.items()):
        raise IntegrityError("restore.json of the checkpoint names programs outside of it.")
    return dict(found)


def schedule(details: dict[str, Any], request: dict[str, Any]
             ) -> tuple[Schedule | None, list[str]]:
    """Return the schedule of the kernel that a restore makes, and warnings.

    That of the request, else of the checkpoint. Raises `UsageError`, or
    `IntegrityError` where the checkpoint's cannot be.
    """
    if "schedule" in request:
        return Schedule.from_dict(request["schedule"]), []
    try:
        found, unknown = of_checkpoint(details.get("schedule"))
    except UsageError as error:
        raise IntegrityError(
            f"The schedule in restore.json of the checkpoint is malformed: {error.message}",
            "Use another checkpoint.") from error
    if not unknown:
        return found, []
    return found, [f"The schedule of automatic checkpoints holds {', '.join(unknown)}, which "
                   "this version does not know: it goes on without."]


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
