"""What is copied while the tree stands still: files of the same instant.

Everything here adds to the pause the user feels, so it only copies bytes; the
copies are hashed and stored after the thaw.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.openfiles import OpenFile
from ..errors import IntegrityError, RestoreFailed, UsageError, quoted
from ..sizes import parse_size
from ..store.disk import NO_SPACE
from . import saved
from .copying import copy_sparse
from .databases import database_of, members

LIMIT_VARIABLE = "JUPYTER_CKPT_FILE_LIMIT"
DEFAULT_LIMIT = "4G"
_HISTORY = "history.sqlite"
_OF_THE_SYSTEM = ("/proc/", "/sys/")
"""No files of the user's: the system makes them up, and below another pid after a restore."""


@dataclass
class FrozenFiles:
    """The copies of one freeze: ``files`` as the manifest lists them."""

    files: list[dict[str, Any]] = field(default_factory=list)
    copies: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def parse_limit(text: str) -> int:
    """Return the bytes that a limit stands for: a size, or ``0`` for no content at all.

    Raises `UsageError`.
    """
    return 0 if text.strip() == "0" else parse_size(text)


def file_limit() -> tuple[int, list[str]]:
    """Return the size in bytes up to which a file is copied, and warnings.

    A senseless setting stops no save: it gives a warning, and the usual limit holds.
    """
    text = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    try:
        return parse_limit(text), []
    except UsageError as error:
        return parse_size(DEFAULT_LIMIT), [
            f"{LIMIT_VARIABLE}: {error.message} Files of up to {DEFAULT_LIMIT} are saved."]


def is_history(path: str) -> bool:
    """Tell whether `path` is IPython's history, which all kernels share."""
    return os.path.basename(path).startswith(_HISTORY)


def copy_open_files(
    found: list[OpenFile], folder: Path, skip: tuple[str, ...], limit_bytes: int
) -> FrozenFiles:
    """Copy every file open for writing, of at most `limit_bytes`, into `folder`.

    Paths below one of `skip` are left to others, devices and the files of /proc and
    /sys to the system. Files that are only read,
    appended to or IPython's history are listed, not copied. The files of a
    SQLite database are copied together, also those that nobody has open.
    """
    copying = _Copying(folder, limit_bytes)
    for file in found:
        if file.role == "mapped" or file.path.startswith(
                (*_OF_THE_SYSTEM, *(f"{s}/" for s in skip))):
            continue
        copying.enlist(file.path, "history" if is_history(file.path) else file.role)
    for path in [path for path, entry in copying.entries.items() if entry["role"] == "write"]:
        database = database_of(path)
        copying.copy([path] if database is None else copying.gather(database))
    copying.frozen.files = list(copying.entries.values())
    return copying.frozen


class _Copying:
    """The files of one freeze while they are listed and copied."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.entries: dict[str, dict[str, Any]] = {}
        self.frozen = FrozenFiles()
        self._tried: set[str] = set()

    def enlist(self, path: str, role: str) -> None:
        """Add the entry of a regular file; what cannot be looked at gets a warning instead."""
        try:
            status = os.stat(path)
        except OSError as error:
            self._warn(path, f"could not be read for saving: {error.strerror}")
            return
        if not stat.S_ISREG(status.st_mode):
            return
        self.entries[path] = {
            "path": path, "role": role, "saved": False, "size_bytes": status.st_size,
            "mtime_ns": status.st_mtime_ns, "mode": stat.S_IMODE(status.st_mode),
            "uid": status.st_uid, "gid": status.st_gid}

    def gather(self, database: str) -> list[str]:
        """List all files of a database, note those that are not there; return the others."""
        absent = []
        for path in members(database):
            if path not in self.entries and os.path.exists(path):
                self.enlist(path, "beside")
            if path in self.entries:
                self.entries[path]["group"] = database
            else:
                absent.append(path)
        present = [path for path in members(database) if path in self.entries]
        if present:
            self.entries[present[0]]["absent"] = absent
        return present

    def copy(self, paths: Sequence[str]) -> None:
        """Copy these files, or none of them when one cannot be; each is tried once."""
        entries = [self.entries[path] for path in paths if path not in self._tried]
        self._tried.update(paths)
        for entry in entries:
            problem = self._copy(entry)
            if problem is not None:
                self._warn(entry["path"], problem)
                self._forget(entries, entry["path"])
                return

    def _copy(self, entry: dict[str, Any]) -> str | None:
        """Copy one file; return why it is not part of the checkpoint, None: it is."""
        if entry["size_bytes"] > self.limit_bytes:
            return (f"is open for writing and {entry['size_bytes']} bytes large, more than the "
                    f"{self.limit_bytes} that {LIMIT_VARIABLE} allows: its content is not part "
                    "of the checkpoint")
        number = len(self.frozen.copies)
        name, target = f"files/{number}", self.folder / str(number)
        for _ in range(2):
            try:
                target.unlink(missing_ok=True)
                copy_sparse(entry["path"], target)
                status = os.stat(entry["path"])
            except OSError as error:
                if error.errno in NO_SPACE:
                    raise  # of the store's disk, not of the user's file
                return f"could not be read for saving: {error.strerror}"
            torn = (status.st_size, status.st_mtime_ns) != (entry["size_bytes"], entry["mtime_ns"])
            entry |= {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            if not torn:
                break
        else:
            self._warn(entry["path"], "is written to by a program outside of the session: "
                       "its saved content may be of several moments")
        entry |= {"saved": True, "content": name}
        self.frozen.copies[name] = target
        return None

    def _forget(self, entries: list[dict[str, Any]], reason: str) -> None:
        for entry in entries:
            if entry["saved"]:
                self.frozen.copies.pop(entry.pop("content")).unlink()
                entry["saved"] = False
            if entry["path"] != reason:
                self._warn(entry["path"], f"belongs to {reason} and is not saved without it")

    def _warn(self, path: str, what: str) -> None:
        self.frozen.warnings.append(f"{path} {what}.")


def copy_shared_memory(shm: Path, folder: Path) -> dict[str, Path]:
    """Copy a box's /dev/shm into `folder`; return {content name: copy}.

    ``shm.json`` among them tells names, kinds and permissions.
    """
    index: list[dict[str, Any]] = []
    copies: dict[str, Path] = {}
    device = os.stat(shm).st_dev
    for top, folders, names in os.walk(shm):
        # Other file systems mounted in there are not the tree's memory.
        folders[:] = [f for f in folders if os.lstat(os.path.join(top, f)).st_dev == device]
        inside = os.path.relpath(top, shm)
        for name in [*folders, *names]:
            path = os.path.join(top, name)
            status = os.lstat(path)
            if status.st_dev != device:
                continue
            entry: dict[str, Any] = {"path": os.path.normpath(os.path.join(inside, name)),
                                     "mode": status.st_mode}
            if stat.S_ISREG(status.st_mode):
                entry["content"] = f"shm/{len(copies)}"
                target = folder / f"shm-{len(copies)}"
                copy_sparse(path, target)
                copies[entry["content"]] = target
            elif stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            elif not stat.S_ISDIR(status.st_mode):
                continue  # sockets and fifos are in the images
            index.append(entry)
    listing = folder / "shm.json"
    listing.write_text(json.dumps(index))
    copies["shm.json"] = listing
    return copies


def refill_shared_memory(shm: Path, folder: Path) -> None:
    """Bring a /dev/shm back from a folder that `copy_shared_memory` filled.

    `folder` holds the content names as paths (``shm.json``, ``shm/0``, ...).
    """
    listing = folder / "shm.json"
    if not listing.exists():
        return
    for entry in saved.parsed(listing.read_bytes(), saved.SHARED_MEMORY, "shm.json"):
        try:
            _refill_one(entry, shm, folder)
        except (OSError, RuntimeError, KeyError) as error:
            raise RestoreFailed(
                f"The shared memory {quoted(entry['path'])} of the session could not be put "
                f"back: {type(error).__name__} {str(error)[:200]}.") from error


def _refill_one(entry: dict[str, Any], shm: Path, folder: Path) -> None:
    target = shm / entry["path"]
    # The last part itself must be new: a link there would lead the copy elsewhere.
    if not (target.parent.resolve() / target.name).is_relative_to(shm.resolve()):
        raise IntegrityError(f"{quoted(entry['path'])} of shm.json leaves /dev/shm.")
    mode = entry["mode"] & 0xFFFF
    if stat.S_ISDIR(mode):
        target.mkdir()
    elif stat.S_ISLNK(mode):
        target.symlink_to(entry["target"])
        return
    else:
        copy_sparse(folder / entry["content"], target)
    os.chmod(target, stat.S_IMODE(mode))
