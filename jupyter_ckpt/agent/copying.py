"""Copying one file fast: shared blocks where the file system can, else only its data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_FICLONE = 0x40049409
"""Let a file share another's blocks (linux/fs.h); Btrfs, XFS, bcachefs, ZFS can."""


def copy_sparse(source: str | Path, target: Path) -> None:
    """Copy the data of a file to `target`, which must not exist, and leave holes holes.

    Where the file system offers it, no byte is copied: both files share their
    blocks until one is written to.
    """
    with open(source, "rb", buffering=0) as src, open(target, "xb", buffering=0) as dst:
        same_device = os.fstat(src.fileno()).st_dev == os.fstat(dst.fileno()).st_dev
        if not (same_device and _cloned(src.fileno(), dst.fileno())):
            _copy(src.fileno(), dst.fileno(), same_device)


def _cloned(src: int, dst: int) -> bool:
    try:
        fcntl.ioctl(dst, _FICLONE, src)
    except OSError:
        return False
    return True


def _copy(src: int, dst: int, same_device: bool) -> None:
    end = os.fstat(src).st_size
    for start, stop in _data_ranges(src, end):
        position = start
        while position < stop:
            if same_device:
                copied = os.copy_file_range(src, dst, stop - position, position, position)
            else:
                data = os.pread(src, min(1 << 20, stop - position), position)
                copied = os.pwrite(dst, data, position)
            if not copied:
                break
            position += copied
    os.truncate(dst, end)


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
