"""Files of the user at a restore: what differs, what is done about it, undo.

``put-back``: files the tree had open for writing become what they were, the
present ones are kept beside them; a file that another process is writing (the
original session, when a copy of it is made) is left to that process. ``keep``:
the session goes on with the present files. ``abort``: any difference refuses
the restore. The files of a SQLite database share one fate.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RestoreRefused, UsageError, quoted
from ..procfs import all_pids
from . import saved
from .copying import copy_sparse
from .databases import is_index, members
from .presentfile import PresentFile
from .refusals import Refusals

SHARED_MEMORY = "/dev/shm/"
POLICIES = ("put-back", "keep", "abort")
_OTHERS_ADD = ("append", "history")


@dataclass
class FilePlan:
    """What a restore will do: decided before anything is touched."""

    put_back: list[dict[str, Any]] = field(default_factory=list)
    move_away: list[str] = field(default_factory=list)
    """Files of a database that were not there at the checkpoint."""
    sizes: dict[str, int] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    undo: list[tuple[str, str | None]] = field(default_factory=list)


def plan_files(files: list[dict[str, Any]], policy: str, folder: Path, shared: bool) -> FilePlan:
    """Compare `files` of a manifest with the present ones and decide.

    ``folder`` holds the saved contents by content name; ``shared`` tells that
    the original session may live on beside this one. Raises `RestoreRefused`
    naming every file that the policy, its absence or what took its place forbids.
    """
    if policy not in POLICIES:
        raise UsageError(f"{quoted(policy)} is not a way to treat files.",
                         f"Choose one of {', '.join(POLICIES)}.")
    plan, problems = FilePlan(), Refusals()
    for group in _groups(saved.checked(files, saved.FILES, "The list of files")):
        _plan_group(group, policy, folder, shared, plan, problems)
    if plan.differing and policy == "abort":
        problems.add(f"Files changed since the checkpoint: {', '.join(plan.differing)}.",
                     "Restore with --files put-back or --files keep.")
    problems.raise_if_any()
    return plan


def _groups(files: list[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    """Return the entries, those of one database together."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in files:
        found.setdefault(entry.get("group") or entry["path"], []).append(entry)
    return found.values()


def _plan_group(
    group: list[dict[str, Any]], policy: str, folder: Path, shared: bool,
    plan: FilePlan, problems: Refusals,
) -> None:
    """Decide what becomes of one file, or of the files of one database."""
    if group[0]["path"].startswith(SHARED_MEMORY) and group[0]["saved"]:
        # Memory of a tree that has ended: there is no choice.
        plan.put_back += [each for each in group
                          if PresentFile.at(each["path"]).differs_from(each, folder)]
        return
    present = {each["path"]: PresentFile.at(each["path"]) for each in group}
    newer = [path for each in group for path in each.get("absent", ())
             if path in members(each["path"]) and os.path.lexists(path)]
    if not _are_usable(group, present, policy, problems):
        return
    changed = [each for each in group if present[each["path"]].differs_from(each, folder)]
    # A database's -shm is an index of its -wal: by itself it is nobody's content.
    index_only = not newer and all(is_index(each) for each in changed)
    told = [each["path"] for each in changed
            if each["role"] not in _OTHERS_ADD and not is_index(each)] + newer
    plan.differing += told
    if not changed and not newer:
        return
    busy = shared and policy == "put-back" and any(
        _is_being_written(path) for path in [*present, *newer])
    if policy == "put-back" and not busy and all(each["saved"] for each in group):
        # All of a database: one of its files from another moment would corrupt it.
        plan.put_back += changed if index_only else group
        plan.move_away += newer
        return
    for each in changed:
        now = present[each["path"]].size_bytes
        if now is not None:
            plan.sizes[each["path"]] = now
    why = "is in use by another process" if busy else "changed since the checkpoint"
    plan.warnings += [f"{path} {why}; the session goes on with it as it is now." for path in told]


def _are_usable(
    group: list[dict[str, Any]], present: dict[str, PresentFile], policy: str, problems: Refusals
) -> bool:
    """Tell whether the restore can go on with these files; add the reasons why not."""
    usable = True
    for entry in group:
        now = present[entry["path"]]
        if now.obstacle:
            problems.add(f"{entry['path']} is {now.obstacle} now; it was a file at the checkpoint.",
                         "Move it out of the way, then restore again.")
            usable = False
        elif (now.status is None and entry["role"] != "beside"
                and not (entry["saved"] and policy == "put-back")):
            problems.add(f"The file {entry['path']}, which the session has open, is missing.",
                         "Bring it back, then restore again.")
            usable = False
    return usable


def present_states(
    files: list[dict[str, Any]], plan: FilePlan
) -> dict[str, tuple[int, int]]:
    """Return {path: (size, st_mode)} of the files that come back as they are now.

    CRIU refuses a file whose size or permissions are not the saved ones.
    """
    found = {}
    back = {entry["path"] for entry in plan.put_back}
    for entry in files:
        try:
            status = os.stat(entry["path"])
        except OSError:
            continue  # CRIU names it
        # Others may have written to it since the plan was made.
        grown = entry["path"] not in back and status.st_size != entry["size_bytes"]
        other_mode = stat.S_IMODE(status.st_mode) != entry.get("mode")
        if grown or other_mode or entry["path"] in plan.sizes:
            found[entry["path"]] = (status.st_size, status.st_mode)
    return found


def _is_being_written(path: str) -> bool:
    """Tell whether some process has `path` open for writing."""
    try:
        wanted = os.stat(path)
    except OSError:
        return False
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
    to it goes on writing to the backup. Raises `RestoreRefused` naming the file
    that cannot be put back; what was done until then is for `undo_put_back`.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for path in plan.move_away:
        with _naming(path):
            backup = _set_aside(plan, path, stamp)
        plan.warnings.append(f"{path} was not there at the checkpoint; it is kept as {backup}.")
    for entry in plan.put_back:
        with _naming(entry["path"]):
            _put_one_back(plan, entry, folder, stamp)


def _put_one_back(plan: FilePlan, entry: dict[str, Any], folder: Path, stamp: str) -> None:
    path, backup = entry["path"], None
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and path.startswith(SHARED_MEMORY):
        os.unlink(path)  # memory of the tree that has ended, nobody's document
        plan.undo.append((path, None))
    elif os.path.lexists(path):
        backup = _set_aside(plan, path, stamp)
    else:
        plan.undo.append((path, None))
    copy_sparse(folder / entry["content"], Path(path))
    os.chmod(path, entry.get("mode", 0o600))
    if not path.startswith(SHARED_MEMORY):
        told = f"; what was there is kept as {backup}" if backup else ""
        plan.warnings.append(f"{path} was put back as it was at the checkpoint{told}.")


def _set_aside(plan: FilePlan, path: str, stamp: str) -> str:
    backup = _unused(f"{path}.before-restore-{stamp}")
    os.rename(path, backup)
    plan.undo.append((path, backup))
    return backup


class _naming:
    """Turns an `OSError` about a file of the user into a sentence that names it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise RestoreRefused(
                f"{self.path} cannot be put back as it was: {error.strerror}.",
                "Make its folder writable, or restore with --files keep.") from error


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
