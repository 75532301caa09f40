"""What stands at a path now, compared with the file that was there at the checkpoint."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

_KINDS: list[tuple[Callable[[int], bool], str]] = [
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
]


@dataclass(frozen=True)
class PresentFile:
    """A path now: ``status`` of the file there (links followed), None when it is missing.

    ``obstacle`` says in words what is there instead of a file; empty: nothing is.
    """

    path: str
    status: os.stat_result | None
    is_link: bool
    obstacle: str

    @classmethod
    def at(cls, path: str) -> PresentFile:
        """Look at `path`; what may not be looked at counts as missing."""
        try:
            own = os.lstat(path)
        except OSError:
            return cls(path, None, False, "")
        is_link = stat.S_ISLNK(own.st_mode)
        try:
            status = os.stat(path)
        except OSError:
            return cls(path, None, is_link, "")
        obstacle = next((word for test, word in _KINDS if test(status.st_mode)), "")
        return cls(path, None if obstacle else status, is_link, obstacle)

    @property
    def size_bytes(self) -> int | None:
        return self.status.st_size if self.status is not None else None

    def differs_from(self, entry: dict[str, Any], saved: Path) -> bool:
        """Tell whether this is not the file of a manifest's `entry`.

        ``saved`` is the folder of saved contents, needed by checkpoints whose
        entries hold no hash.
        """
        if self.status is None or self.is_link or self.status.st_size != entry["size_bytes"]:
            return True
        if not entry["saved"]:
            return bool(self.status.st_mtime_ns != entry["mtime_ns"])
        wanted = entry.get("blake3") or digest(saved / entry["content"])
        try:
            return digest(self.path) != wanted
        except OSError:
            return True  # not readable for us: no proof that it is the same


def digest(path: str | Path) -> str:
    """Return the content hash of a file."""
    hasher = blake3()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
