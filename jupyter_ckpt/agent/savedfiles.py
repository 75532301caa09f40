"""Files of the user at a restore: what differs, and what is to be done about it.

``put-back``: files the tree had open for writing become what they were, the
present ones are kept beside them; a file that another process is writing (the
original session, when a copy of it is made) is left to that process. ``keep``:
the session goes on with the present files. ``abort``: any difference refuses
the restore. The files of a SQLite database share one fate.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError, quoted
from ..procfs import all_pids
from . import saved
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
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # it has ended, or is none of ours
        if any(_is_open_for_writing(f"/proc/{pid}/fd/{one}", wanted) for one in descriptors):
            return True
    return False


def _is_open_for_writing(descriptor: str, wanted: os.stat_result) -> bool:
    try:
        found = os.stat(descriptor)
        return ((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
                and bool(os.lstat(descriptor).st_mode & 0o200))
    except OSError:
        return False  # closed since it was listed; the others may still tell
