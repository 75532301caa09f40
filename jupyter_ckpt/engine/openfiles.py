"""The files a dumped tree had open or mapped, as its images tell."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import IntegrityError
from .images import read_image

_ACCESS = os.O_ACCMODE
PROT_WRITE, MAP_SHARED = 2, 1


@dataclass
class OpenFile:
    """A regular file of the tree: `role` is write, append, read or mapped."""

    path: str
    role: str
    size_bytes: int


def open_files(images: Path) -> list[OpenFile]:
    """Return every regular file of a dump, one entry for each path.

    The strongest use wins: a file open for writing by one process and for
    reading by another is a file open for writing.
    """
    by_descriptor = _descriptor_ids(images)
    shared_writable = _shared_writable_ids(images)
    deleted = _deleted_ids(images)
    found: dict[str, OpenFile] = {}
    for entry in read_image(images / "files.img", "file_entry"):
        if not entry.HasField("reg") or entry.id in deleted:
            continue
        reg = entry.reg
        path = os.fsdecode(reg.name)
        if not path.startswith("/") or not stat.S_ISREG(reg.mode or stat.S_IFREG):
            continue
        role = _role(reg.flags, entry.id in by_descriptor, entry.id in shared_writable)
        this = OpenFile(path, role, reg.size)
        known = found.setdefault(path, this)
        if known is not this:
            known.role = max(known.role, role, key=_STRENGTH.index)
    return list(found.values())


def special_files(images: Path) -> dict[str, int]:
    """Return {path: file type} of the folders and named pipes that a dump has open."""
    deleted = _deleted_ids(images)
    found = {}
    for entry in read_image(images / "files.img", "file_entry"):
        if not entry.HasField("reg") or entry.id in deleted:
            continue
        kind = stat.S_IFMT(entry.reg.mode)
        name = os.fsdecode(entry.reg.name)
        if name.startswith("/") and kind in (stat.S_IFDIR, stat.S_IFIFO):
            found[name] = kind
    return found


_STRENGTH = ["mapped", "read", "append", "write"]


def _role(flags: int, has_descriptor: bool, shared_writable: bool) -> str:
    if shared_writable:
        return "write"
    if not has_descriptor:
        return "mapped"
    if flags & _ACCESS == os.O_RDONLY:
        return "read"
    return "append" if flags & os.O_APPEND and flags & _ACCESS == os.O_WRONLY else "write"


def _deleted_ids(images: Path) -> set[int]:
    """Files without a name: their content is in the images themselves."""
    image = images / "remap-fpath.img"
    if not image.exists():
        return set()
    return {entry.orig_id for entry in read_image(image, "remap_file_path_entry")}


def _descriptor_ids(images: Path) -> set[int]:
    return {
        entry.id for image in images.glob("fdinfo-*.img")
        for entry in read_image(image, "fdinfo_entry")
    }


def _shared_writable_ids(images: Path) -> set[int]:
    return {
        vma.shmid for image in images.glob("mm-*.img")
        for mm in read_image(image, "mm_entry") for vma in mm.vmas
        if vma.flags & MAP_SHARED and vma.prot & PROT_WRITE and vma.shmid
    }


@dataclass
class Tree:
    """The processes of a dump: pids as in their box."""

    pids: list[int]
    highest_pid: int
    all_ids: set[int]
    """Every id a restore takes: processes, threads, groups and sessions."""


def process_tree(images: Path) -> Tree:
    """Return the pids of a dump, the root first.

    The only thread of a process has the process's id; CRIU leaves arbitrary
    bytes there instead when the process is a zombie.
    """
    entries = read_image(images / "pstree.img", "pstree_entry")
    if not entries:
        raise IntegrityError("Image pstree.img names no process.")
    ids = {each for e in entries for each in (e.pid, e.pgid, e.sid)}
    ids.update(thread for e in entries if len(e.threads) > 1 for thread in e.threads)
    return Tree([e.pid for e in entries], max(ids), ids)
