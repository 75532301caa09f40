"""SQLite databases: files that mean something only together.

A database with another moment's ``-wal`` or ``-journal`` is a corrupt one, so
all of them are saved, put back and backed up together, or none.
"""

from __future__ import annotations

from typing import Any

SIDE_FILES = ("-wal", "-journal", "-shm")
_HEADER = b"SQLite format 3\0"


def database_of(path: str) -> str | None:
    """Return the database that the file `path` is, or belongs to; None: it is no part of one."""
    for side in SIDE_FILES:
        if path.endswith(side) and _is_database(base := path.removesuffix(side)):
            return base
    return path if _is_database(path) else None


def members(database: str) -> list[str]:
    """Return the paths of a database's files, there or not; the database comes first."""
    return [database, *(database + side for side in SIDE_FILES)]


def is_index(entry: dict[str, Any]) -> bool:
    """Tell whether a manifest's entry is the shared memory index of a database."""
    return str(entry["path"]).endswith("-shm") and "group" in entry


def _is_database(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(len(_HEADER)) == _HEADER
    except OSError:
        return False
