"""Writing to disk so that it is still there after a crash."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, OutOfSpace, StoreUnusable
from ..faults import point, shortened

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_libc = ctypes.CDLL(None, use_errno=True)


def explained(error: OSError, act: str) -> CheckpointError:
    """Return what `error`, met while doing `act` in the store, means to a user."""
    if error.errno in NO_SPACE:
        return OutOfSpace(f"No space is left to {act}.",
                          "Free space, or remove checkpoints with 'jupyter ckpt rm' and then "
                          "'jupyter ckpt gc'.")
    reason = error.strerror or str(error)
    where = f" ({error.filename})" if isinstance(error.filename, str) else ""
    return StoreUnusable(f"The checkpoint store failed to {act}: {reason}{where}.",
                         "Check the disk and the permissions of the store's folder.")


@contextmanager
def explaining(act: str) -> Iterator[None]:
    """Turn an `OSError` of the body into `OutOfSpace` or `StoreUnusable`."""
    try:
        yield
    except OSError as error:
        raise explained(error, act) from error


def write_all(descriptor: int, *parts: bytes | memoryview) -> int:
    """Write `parts` one after the other, whole; return the number of bytes.

    Raises `OSError`; a part of the bytes may have been written then.
    """
    total = sum(len(part) for part in parts)
    point("store.write")
    if (most := shortened("store.write", total)) is not None:
        os.write(descriptor, b"".join(parts)[:most])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    written = os.writev(descriptor, parts)
    if written == total:
        return total
    rest = memoryview(b"".join(parts))[written:]
    while rest:
        rest = rest[os.write(descriptor, rest):]
    return total


def sync_filesystem(folder: int) -> None:
    """Bring all that was written to the filesystem of `folder` (a descriptor) to the disk.

    One call for thousands of chunks: an fsync of each costs a journal commit
    of each. Raises `OSError` when a write failed.
    """
    if not hasattr(_libc, "syncfs"):
        os.sync()
        return
    if _libc.syncfs(folder) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_folder(path: Path | str) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path | str, data: bytes) -> None:
    """Create the file `path` (0600) with `data` and bring both to the disk.

    Raises `OSError`, also when `path` exists; removes the file then, unless it
    was there before.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
