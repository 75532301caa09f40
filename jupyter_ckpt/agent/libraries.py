"""The programs, libraries and data a tree has mapped: recorded, then compared.

A restore maps these files again. CRIU notices another size; another content of
the same size would be run silently, so contents are compared here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from blake3 import blake3

from ..engine.openfiles import OpenFile
from ..errors import RestoreRefused
from . import saved

_NAMED = 5
_cache: dict[tuple[int, int, int, int, int], str] = {}


def inventory(found: Iterable[OpenFile], skip: tuple[str, ...]) -> list[dict[str, Any]]:
    """Describe every mapped file: path, size, times, content hash."""
    listed = []
    for file in found:
        if file.role != "mapped" or file.path.startswith(tuple(f"{s}/" for s in skip)):
            continue
        try:
            status = os.stat(file.path)
            digest = _digest(file.path, status)
        except OSError:
            continue  # deleted since the dump: CRIU's images hold it or its restore names it
        listed.append({"path": file.path, "size_bytes": status.st_size,
                       "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns,
                       "inode": status.st_ino, "blake3": digest})
    return listed


def check_unchanged(listed: list[dict[str, Any]]) -> None:
    """Raise `RestoreRefused` naming the files that are not what they were."""
    wrong = []
    for entry in saved.checked(listed, saved.LIBRARIES, "libraries.json"):
        try:
            status = os.stat(entry["path"])
        except OSError:
            wrong.append(f"{entry['path']} is missing")
            continue
        same = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) == (
            entry["size_bytes"], entry["mtime_ns"], entry["ctime_ns"], entry["inode"])
        if same:
            continue
        if status.st_size != entry["size_bytes"]:
            wrong.append(f"{entry['path']} had {entry['size_bytes']} bytes and "
                         f"has {status.st_size} now")
        elif _unreadable_or_other(entry, status):
            wrong.append(f"{entry['path']} has other content than at the checkpoint")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise RestoreRefused(
            f"The session's programs or libraries are not what they were: "
            f"{'; '.join(wrong[:_NAMED])}{more}.",
            "Bring these files back to the versions the session used (reinstall them), "
            "then restore again.")


def _unreadable_or_other(entry: dict[str, Any], status: os.stat_result) -> bool:
    try:
        return bool(_digest(entry["path"], status) != entry["blake3"])
    except OSError:
        return True


def _digest(path: str, status: os.stat_result) -> str:
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _cache:
        hasher = blake3()
        with open(path, "rb", buffering=0) as file:
            while block := file.read(1 << 20):
                hasher.update(block)
        _cache[key] = hasher.hexdigest()
    return _cache[key]
