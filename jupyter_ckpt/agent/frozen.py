"""What is copied while the tree stands still: files of the same instant.

Everything here adds to the pause the user feels, so it only copies bytes; the
copies are hashed and stored after the thaw.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..engine.openfiles import OpenFile

MAX_FILE_BYTES = 4 << 30
_HISTORY = "history.sqlite"


@dataclass
class FrozenFiles:
    """The copies of one freeze: ``files`` as the manifest lists them."""

    files: list[dict[str, Any]] = field(default_factory=list)
    copies: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def is_history(path: str) -> bool:
    """Tell whether `path` is IPython's history, which all kernels share."""
    return os.path.basename(path).startswith(_HISTORY)


def copy_open_files(found: list[OpenFile], folder: Path, skip: tuple[str, ...]) -> FrozenFiles:
    """Copy every file open for writing into `folder`.

    Paths below one of `skip` are left to others. Files that are only read,
    appended to or IPython's history are listed, not copied.
    """
    frozen = FrozenFiles()
    for file in found:
        if file.role == "mapped" or file.path.startswith(tuple(f"{s}/" for s in skip)):
            continue
        role = "history" if is_history(file.path) else file.role
        entry: dict[str, Any] = {"path": file.path, "role": role, "saved": False}
        try:
            status = os.stat(file.path)
        except OSError as error:
            frozen.warnings.append(f"{file.path} could not be read for saving: {error.strerror}.")
            continue
        entry |= {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns,
                  "mode": stat.S_IMODE(status.st_mode)}
        if role == "write":
            _copy(entry, folder, frozen)
        frozen.files.append(entry)
    return frozen


def _copy(entry: dict[str, Any], folder: Path, frozen: FrozenFiles) -> None:
    path = entry["path"]
    if entry["size_bytes"] > MAX_FILE_BYTES:
        frozen.warnings.append(
            f"{path} is open for writing and larger than {MAX_FILE_BYTES >> 30} GiB: "
            "its content is not part of the checkpoint.")
        return
    name = f"files/{len(frozen.copies)}"
    target = folder / str(len(frozen.copies))
    try:
        copy_sparse(path, target)
    except OSError as error:
        if error.errno == 28:
            raise
        frozen.warnings.append(f"{path} could not be read for saving: {error.strerror}.")
        return
    entry |= {"saved": True, "content": name}
    frozen.copies[name] = target


def copy_sparse(source: str | Path, target: Path) -> None:
    """Copy the data of a file and leave its holes holes."""
    with open(source, "rb", buffering=0) as src, open(target, "xb", buffering=0) as dst:
        end = os.fstat(src.fileno()).st_size
        for start, stop in _data_ranges(src.fileno(), end):
            position = start
            while position < stop:
                copied = os.copy_file_range(
                    src.fileno(), dst.fileno(), stop - position, position, position
                ) if _same_device(src.fileno(), dst.fileno()) else _copy_some(
                    src.fileno(), dst.fileno(), position, stop)
                if not copied:
                    break
                position += copied
        os.truncate(dst.fileno(), end)


def _same_device(a: int, b: int) -> bool:
    return os.fstat(a).st_dev == os.fstat(b).st_dev


def _copy_some(src: int, dst: int, position: int, stop: int) -> int:
    data = os.pread(src, min(1 << 20, stop - position), position)
    return os.pwrite(dst, data, position)


def _data_ranges(fd: int, end: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(stop, end)
        position = stop


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
    for entry in json.loads(listing.read_text()):
        target = shm / entry["path"]
        if not target.resolve().is_relative_to(shm.resolve()):
            raise ValueError(f"{entry['path']} leaves /dev/shm")
        if stat.S_ISDIR(entry["mode"]):
            target.mkdir(exist_ok=True)
        elif stat.S_ISLNK(entry["mode"]):
            target.symlink_to(entry["target"])
            continue
        else:
            copy_sparse(folder / entry["content"], target)
        os.chmod(target, stat.S_IMODE(entry["mode"]))


def discard(folder: Path) -> None:
    """Remove a work folder; a remainder is left to the store's collection."""
    shutil.rmtree(folder, ignore_errors=True)
