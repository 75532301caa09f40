"""Files of the user at a restore: what differs, what is done about it, undo.

``put-back``: files the tree had open for writing become what they were, the
present ones are kept beside them; a file that another process is writing (the
original session, when a copy of it is made) is left to that process. ``keep``:
the session goes on with the present files. ``abort``: any difference refuses
the restore.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from ..errors import RestoreRefused, UsageError
from ..procfs import all_pids
from .frozen import copy_sparse

SHARED_MEMORY = "/dev/shm/"
POLICIES = ("put-back", "keep", "abort")


@dataclass
class FilePlan:
    """What a restore will do: decided before anything is touched."""

    put_back: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    undo: list[tuple[str, str | None]] = field(default_factory=list)


def plan_files(files: list[dict[str, Any]], policy: str, folder: Path, shared: bool) -> FilePlan:
    """Compare `files` of a manifest with the present ones and decide.

    ``folder`` holds the saved contents by content name; ``shared`` tells that
    the original session may live on beside this one. Raises
    `RestoreRefused` when the policy or a missing file forbids the restore.
    """
    if policy not in POLICIES:
        raise UsageError(f"{policy!r} is not a way to treat files.",
                         f"Choose one of {', '.join(POLICIES)}.")
    plan = FilePlan()
    differing = []
    for entry in files:
        now = _present_size(entry["path"])
        if entry["saved"] and entry["path"].startswith(SHARED_MEMORY):
            if _differs(entry, now, folder):
                plan.put_back.append(entry)  # memory of a tree that has ended: no choice
            continue
        if now is None and not (entry["saved"] and policy != "keep"):
            raise RestoreRefused(
                f"The file {entry['path']}, which the session has open, is missing.",
                "Bring it back, then restore again.")
        if not _differs(entry, now, folder):
            continue
        if entry["role"] in ("append", "history"):
            assert now is not None
            plan.sizes[entry["path"]] = now  # others may add to it: that is its purpose
            continue
        differing.append(entry["path"])
        _decide(plan, entry, now, policy, shared)
    if differing and policy == "abort":
        raise RestoreRefused(
            f"Files changed since the checkpoint: {', '.join(differing[:5])}.",
            "Restore with --files put-back or --files keep.")
    return plan


def _decide(
    plan: FilePlan, entry: dict[str, Any], now: int | None, policy: str, shared: bool
) -> None:
    path = entry["path"]
    busy = shared and policy == "put-back" and now is not None and _is_being_written(path)
    if entry["saved"] and policy == "put-back" and not busy:
        plan.put_back.append(entry)
        return
    assert now is not None
    plan.sizes[path] = now
    why = "is in use by another process" if busy else "changed since the checkpoint"
    plan.warnings.append(f"{path} {why}; the session goes on with it as it is now.")


def present_states(
    files: list[dict[str, Any]], plan: FilePlan
) -> dict[str, tuple[int, int]]:
    """Return {path: (size, st_mode)} of the files that come back as they are now.

    CRIU refuses a file whose size or permissions are not the saved ones.
    """
    found = {}
    for entry in files:
        try:
            status = os.stat(entry["path"])
        except OSError:
            continue  # CRIU names it
        if entry["path"] in plan.sizes or stat.S_IMODE(status.st_mode) != entry.get("mode"):
            found[entry["path"]] = (status.st_size, status.st_mode)
    return found


def _present_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _differs(entry: dict[str, Any], now: int | None, folder: Path) -> bool:
    if now != entry["size_bytes"]:
        return True
    if entry["saved"]:
        return digest(entry["path"]) != digest(folder / entry["content"])
    return bool(os.stat(entry["path"]).st_mtime_ns != entry["mtime_ns"])


def digest(path: str | Path) -> bytes:
    """Return the content hash of a file."""
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.digest()


def _is_being_written(path: str) -> bool:
    """Tell whether a living process of this user has `path` open for writing."""
    wanted = os.stat(path)
    for pid in all_pids():
        try:
            for fd in os.scandir(f"/proc/{pid}/fd"):
                status = os.stat(fd.path)
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino) and (
                        os.lstat(fd.path).st_mode & 0o200):
                    return True
        except OSError:
            continue
    return False


def put_back(plan: FilePlan, folder: Path) -> None:
    """Carry the plan out; `undo_put_back` brings the present files back.

    The present file is renamed, never overwritten: a process that still writes
    to it goes on writing to the backup.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for entry in plan.put_back:
        path = entry["path"]
        backup = None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path) and path.startswith(SHARED_MEMORY):
            os.unlink(path)  # memory of the tree that has ended, nobody's document
        elif os.path.lexists(path):
            backup = _unused(f"{path}.before-restore-{stamp}")
            os.rename(path, backup)
        plan.undo.append((path, backup))
        copy_sparse(folder / entry["content"], Path(path))
        os.chmod(path, entry.get("mode", 0o600))
        if path.startswith(SHARED_MEMORY):
            continue
        told = f"; what was there is kept as {backup}" if backup else ""
        plan.warnings.append(f"{path} was put back as it was at the checkpoint{told}.")


def undo_put_back(plan: FilePlan) -> None:
    """Undo `put_back`: every file is again what it was before."""
    for path, backup in reversed(plan.undo):
        if os.path.lexists(path):
            os.unlink(path)
        if backup is not None:
            os.rename(backup, path)
    plan.undo.clear()


def _unused(path: str) -> str:
    candidate, number = path, 0
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{path}-{number}"
    return candidate
