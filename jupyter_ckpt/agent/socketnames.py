"""Names of unix sockets when a session is restored: there again, and its own.

Paths and abstract names are of everybody. A copy that bound a name of a session that
lives would take it away: who connects to it there, the original's own threads, too,
would reach the copy.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..box import Box
from ..engine.unixnames import (
    LONGEST_NAME,
    bound_names,
    living_names,
    rename_sockets,
    spelled,
)
from ..errors import RestoreRefused


def make_room(images: Path, box: Box, private: Sequence[str], mark: str) -> list[str]:
    """Let every socket of a dump find its folder, and a name that nobody else has.

    Folders that are gone are made again. Where a living process has one of the names,
    its folder is covered in `box` by one of the session's own if it holds nothing but
    sockets; else the socket gets a name that ends with `mark`. Names below one of the
    `private` folders are the box's own anyway. Returns warnings. Raises `RestoreRefused`
    where a folder cannot be made.
    """
    names = [name for name in bound_names(images)
             if not os.fsdecode(name).startswith(tuple(f"{folder}/" for folder in private))]
    warnings = _make_folders(names)
    living = living_names()
    taken: dict[str, list[bytes]] = defaultdict(list)
    for name in names:
        if spelled(name) in living:
            taken[_folder(name)].append(name)
    moves: dict[bytes, bytes] = {}
    for folder, there in taken.items():
        if not (_holds_only_sockets(folder) and box.cover(folder)):
            moves.update((name, _other(name, mark)) for name in there)
    if moves:
        rename_sockets(images, moves)
    return warnings + [
        f"The unix socket {_shown(old)} is another process's, mostly the original session's; "
        f"the restored session has {_shown(new)} in its place." for old, new in moves.items()]


def _make_folders(names: Sequence[bytes]) -> list[str]:
    made = []
    for folder in sorted({_folder(name) for name in names} - {""}):
        if not os.path.isdir(folder):
            try:
                os.makedirs(folder, mode=0o700)
            except OSError as error:
                raise RestoreRefused(
                    f"The folder {folder} of a unix socket of the session is gone and cannot be "
                    f"made again: {error.strerror}.",
                    "Make it, or make what lies above it writable, then restore again."
                ) from error
            made.append(f"The folder {folder} of a unix socket was missing and was made anew, "
                        "empty.")
    return made


def _folder(name: bytes) -> str:
    """Return the folder of an absolute path; empty for every other name."""
    return os.path.dirname(os.fsdecode(name)) if name.startswith(b"/") else ""


def _holds_only_sockets(folder: str) -> bool:
    if not folder:
        return False
    try:
        with os.scandir(folder) as found:
            return all(stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
                       for entry in found)
    except OSError:
        return False


def _other(name: bytes, mark: str) -> bytes:
    """Return `name` with `mark` at its end, within the length that names can have."""
    end = f".{mark}".encode()
    if len(name) + len(end) <= LONGEST_NAME:
        return name + end
    head, slash, _ = name.rpartition(b"/")
    return (head + slash + end[1:]) if slash else name[:LONGEST_NAME - len(end)] + end


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(spelled(name)))[1:-1]
