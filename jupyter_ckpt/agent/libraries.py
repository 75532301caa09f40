"""The programs, libraries and data a tree has mapped: recorded, then compared.

A restore maps these files again. CRIU notices another size; another content of
the same size would be run silently, so contents are compared here. Of large data
files (models, arrays) only samples are read: whole ones would take minutes at each
save and each restore. Programs and libraries are always read whole.
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
LARGE_BYTES = 256 << 20
SAMPLES = 64
SAMPLE_BYTES = 1 << 20
CACHED = 4096
_ELF = b"\x7fELF"
_cache: dict[tuple[int, ...], str] = {}


def inventory(found: Iterable[OpenFile], skip: tuple[str, ...]) -> list[dict[str, Any]]:
    """Describe every mapped file: path, size, times, hash of the content or of samples."""
    listed = []
    for file in found:
        if file.role != "mapped" or file.path.startswith(tuple(f"{s}/" for s in skip)):
            continue
        try:
            status = os.stat(file.path)
            sampled = status.st_size > LARGE_BYTES and not _is_program(file.path)
            digest = _digest(file.path, status, sampled)
        except OSError:
            continue  # deleted since the dump: CRIU's images hold it or its restore names it
        listed.append({"path": file.path, "size_bytes": status.st_size,
                       "mtime_ns": status.st_mtime_ns, "ctime_ns": status.st_ctime_ns,
                       "inode": status.st_ino, "blake3": digest, "sampled": sampled})
    return listed


def check_unchanged(listed: list[dict[str, Any]]) -> list[str]:
    """Return warnings; raise `RestoreRefused` naming the files that are not what they were."""
    wrong, warnings = [], []
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
        elif entry.get("sampled") and status.st_mtime_ns != entry["mtime_ns"]:
            warnings.append(f"{entry['path']} was written since the checkpoint; samples of it are "
                            "what they were, the rest was not read.")
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise RestoreRefused(
            f"The session's programs or libraries are not what they were: "
            f"{'; '.join(wrong[:_NAMED])}{more}.",
            "Bring these files back to the versions the session used (reinstall them), "
            "then restore again.")
    return warnings


def _unreadable_or_other(entry: dict[str, Any], status: os.stat_result) -> bool:
    try:
        sampled = bool(entry.get("sampled"))
        return bool(_digest(entry["path"], status, sampled) != entry["blake3"])
    except OSError:
        return True


def _is_program(path: str) -> bool:
    with open(path, "rb", buffering=0) as file:
        return file.read(len(_ELF)) == _ELF


def _digest(path: str, status: os.stat_result, sampled: bool) -> str:
    """Return the hash of a file, or of `SAMPLES` pieces from its beginning to its end."""
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
           sampled)
    if key not in _cache:
        hasher = blake3()
        with open(path, "rb", buffering=0) as file:
            if sampled:
                last = status.st_size - SAMPLE_BYTES
                for number in range(SAMPLES):
                    hasher.update(os.pread(file.fileno(), SAMPLE_BYTES,
                                           last * number // (SAMPLES - 1)))
            else:
                while block := file.read(1 << 20):
                    hasher.update(block)
        if len(_cache) >= CACHED:
            _cache.clear()
        _cache[key] = hasher.hexdigest()
    return _cache[key]
