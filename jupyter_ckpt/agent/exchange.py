"""Putting saved files in the place of present ones, so that it can be undone by anybody.

The present file is renamed, never overwritten: a process that still writes to
it goes on writing to the backup. What takes its place is made under another
name and brought to the disk first. All of it is written down in the runtime
folder before anything happens: should the agent die, the next one brings the
files back to what they were, or finds that the restore had succeeded.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import RestoreRefused
from ..record import Record, write_private
from ..shapes import misfit
from ..store.disk import sync_folder
from .copying import copy_sparse
from .savedfiles import SHARED_MEMORY, FilePlan

log = logging.getLogger(__name__)
JOURNAL = "exchanged-files.json"
_SHAPE = {"epoch": int, "files": [{
    "path": Path, "backup": (Path, None), "aside": (int, None), "fresh": (Path, None),
    "made": (int, None)}]}


@dataclass
class Exchange:
    """One file of the user: where what is there goes, and what comes in its place."""

    path: str
    backup: str | None = None
    """The name that the present file gets; None where there is none to keep."""
    aside: int | None = None
    """The inode of that file: what else may have its backup's name is not ours."""
    fresh: str | None = None
    """Where the saved content is made; None: nothing comes in its place."""
    made: int | None = None
    """The inode of that, once it is made."""

    def look(self, stamp: str) -> bool:
        """Plan the backup of what is there now; tell whether that is news."""
        before = (self.backup, self.aside)
        if not self.path.startswith(SHARED_MEMORY):  # memory of a tree that has ended
            self.aside = _inode(self.path)
            if self.aside is None:
                self.backup = None
            elif self.backup is None or os.path.lexists(self.backup):
                self.backup = _unused(f"{self.path}.before-restore-{stamp}")
        return (self.backup, self.aside) != before

    def carry_out(self) -> None:
        if self.backup is not None:
            os.rename(self.path, self.backup)
        if self.fresh is not None:
            os.rename(self.fresh, self.path)
        with suppress(OSError):  # we may write to a folder that we may not open
            sync_folder(os.path.dirname(self.path))

    def undo(self) -> None:
        """Bring the path back to what it was, however far this came. Raises `OSError`."""
        if self.fresh is not None:
            Path(self.fresh).unlink(missing_ok=True)
        if self.backup is not None and _inode(self.backup) == self.aside:
            os.replace(self.backup, self.path)
        elif self.backup is None and self.made is not None and _inode(self.path) == self.made:
            os.unlink(self.path)


def put_back(plan: FilePlan, contents: Path, runtime: Path, epoch: int) -> None:
    """Carry the plan out, with the saved contents in the folder `contents`.

    It is noted in the folder `runtime` for the kernel that has `epoch`: `undo`
    brings the present files back, `forget` ends that. Raises `RestoreRefused`
    naming the file that cannot be put back; what was done until then is for `undo`.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    wanted: list[tuple[Exchange, dict[str, Any] | None]] = [
        (Exchange(path), None) for path in plan.move_away]
    for changed in plan.put_back:
        folder = os.path.dirname(changed["path"])
        fresh = os.path.join(folder, f".ckpt-{secrets.token_hex(8)}")
        wanted.append((Exchange(changed["path"], fresh=fresh), changed))
    if not wanted:
        return
    exchanges = [exchange for exchange, _ in wanted]
    for exchange in exchanges:
        exchange.look(stamp)
    _note(runtime, epoch, exchanges)
    for exchange, entry in wanted:
        if entry is not None:
            with _naming(exchange.path):
                exchange.made = _make(exchange, entry, contents)
    _note(runtime, epoch, exchanges)
    for exchange, entry in wanted:
        with _naming(exchange.path):
            if exchange.look(stamp):  # others have not stood still meanwhile
                _note(runtime, epoch, exchanges)
            exchange.carry_out()
        plan.warnings += _told(exchange, entry)


def undo(runtime: Path) -> list[str]:
    """Undo what `put_back` has noted in `runtime`: every file is again what it was.

    Returns a sentence for each file that could not be brought back.
    """
    problems = []
    for exchange in reversed(_noted(runtime)[1]):
        try:
            exchange.undo()
        except OSError as error:
            kept = f" What was there is kept as {exchange.backup}." if exchange.backup else ""
            problems.append(f"{exchange.path} could not be brought back to what it was before "
                            f"the restore: {error.strerror}.{kept}")
            log.error("%s", problems[-1])
    forget(runtime)
    return problems


def settle(runtime: Path, record: Record | None) -> None:
    """Undo what an agent that died has left, unless the restore it was for had succeeded.

    `record` is that of the kernel, as it was found; nothing of that kernel runs any more.
    """
    finished = record is not None and record.kernel is not None and record.recover is None
    if finished and record is not None and record.epoch == _noted(runtime)[0]:
        forget(runtime)
    else:
        undo(runtime)


def forget(runtime: Path) -> None:
    """The restore has succeeded, or was undone."""
    (runtime / JOURNAL).unlink(missing_ok=True)


def _note(runtime: Path, epoch: int, exchanges: list[Exchange]) -> None:
    told = {"epoch": epoch, "files": [asdict(exchange) for exchange in exchanges]}
    write_private(runtime / JOURNAL, json.dumps(told, indent=1).encode())
    sync_folder(runtime)


def _noted(runtime: Path) -> tuple[int, list[Exchange]]:
    """Return the epoch and the exchanges of the journal; (0, []) when there is none."""
    try:
        told = json.loads((runtime / JOURNAL).read_bytes())
    except FileNotFoundError:
        return 0, []
    except (OSError, ValueError, RecursionError) as error:
        log.error("%s cannot be read: %s", runtime / JOURNAL, error)
        return 0, []
    if (place := misfit(told, _SHAPE)) is not None:
        log.error("%s is malformed: %s", runtime / JOURNAL, place)
        return 0, []
    names = Exchange.__dataclass_fields__
    return told["epoch"], [Exchange(**{name: one[name] for name in names})
                           for one in told["files"]]


def _make(exchange: Exchange, entry: dict[str, Any], contents: Path) -> int:
    """Make the saved file under its passing name, on the disk; return its inode."""
    assert exchange.fresh is not None
    os.makedirs(os.path.dirname(exchange.path), exist_ok=True)
    copy_sparse(contents / entry["content"], Path(exchange.fresh))
    _make_alike(exchange.fresh, exchange.path, entry)
    handle = os.open(exchange.fresh, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Last, for owners and lists of rights change it; by descriptor, for it may hide the file.
        os.fchmod(handle, entry.get("mode", 0o600))
        os.fsync(handle)
        return os.fstat(handle).st_ino
    finally:
        os.close(handle)


def _make_alike(fresh: str, present: str, entry: dict[str, Any]) -> None:
    """Give `fresh` owner, group and extended attributes of the present file, as we may.

    Where there is no such file: the saved owner and group.
    """
    uid, gid = entry.get("uid", -1), entry.get("gid", -1)
    try:
        status = os.lstat(present)
    except OSError:
        status = None
    if status is not None and stat.S_ISREG(status.st_mode):
        uid, gid = status.st_uid, status.st_gid
        with suppress(OSError):
            for name in os.listxattr(present, follow_symlinks=False):
                with suppress(OSError):
                    os.setxattr(fresh, name, os.getxattr(present, name, follow_symlinks=False),
                                follow_symlinks=False)
    for owner in (uid, -1):
        with suppress(OSError, OverflowError):  # only root gives files away
            os.chown(fresh, owner, gid, follow_symlinks=False)
            return


def _told(exchange: Exchange, entry: dict[str, Any] | None) -> list[str]:
    if entry is None:
        return [f"{exchange.path} was not there at the checkpoint; it is kept as "
                f"{exchange.backup}."]
    if exchange.path.startswith(SHARED_MEMORY):
        return []
    told = f"; what was there is kept as {exchange.backup}" if exchange.backup else ""
    return [f"{exchange.path} was put back as it was at the checkpoint{told}."]


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


def _inode(path: str) -> int | None:
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None


def _unused(path: str) -> str:
    candidate, number = path, 0
    while os.path.lexists(candidate):
        number += 1
        candidate = f"{path}-{number}"
    return candidate
