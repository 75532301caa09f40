"""Folders that are one user's alone: made so, kept so, or not used."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from .errors import RuntimeUnusable

log = logging.getLogger(__name__)


def private_folder(path: Path) -> None:
    """Make the folder `path` (0700), or see to it that it is this user's alone.

    Called for everything a kernel's sockets, records and logs lie in. One of
    ours that is open to others is closed to them, with a word in the log.
    Raises `RuntimeUnusable` for a link, a file, another user's folder, or when
    it cannot be made; nothing was changed then.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeUnusable(f"The folder {path} cannot be made: {error.strerror}.",
                              "Set JUPYTER_RUNTIME_DIR to a folder of your own.") from error
    # By descriptor: what is looked at is what is changed, whatever happens to the name.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeUnusable(f"{path} is a link, or cannot be opened: {error.strerror}.",
                              "Remove it, or set JUPYTER_RUNTIME_DIR to a folder of your own."
                              ) from error
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid():
            raise RuntimeUnusable(f"{path} belongs to another user (uid {found.st_uid}).",
                                  "Set JUPYTER_RUNTIME_DIR to a folder of your own.")
        if stat.S_IMODE(found.st_mode) & 0o077:
            log.warning("%s was open to other users and is closed to them now", path)
            os.fchmod(handle, 0o700)
    finally:
        os.close(handle)


def is_own(path: Path) -> bool:
    """Tell whether `path` is a folder (no link) of this user."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
