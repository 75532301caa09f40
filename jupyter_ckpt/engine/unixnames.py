"""The names that the unix sockets of a dump are bound to, and who else has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .images import magic_of, read_image, write_image

LONGEST_NAME = 107
"""Bytes; the system keeps one more for the end of a path."""


def bound_names(images: Path) -> list[bytes]:
    """Return the names, each once: paths, and abstract ones, which begin with a zero byte."""
    found = (_plain(entry.usk.name) for entry in read_image(images / "files.img", "file_entry")
             if entry.HasField("usk"))
    return sorted({name for name in found if name})


def rename_sockets(images: Path, moves: Mapping[bytes, bytes]) -> None:
    """Bind sockets to other names than they had: {old: new}."""
    path = images / "files.img"
    entries, magic = read_image(path, "file_entry"), magic_of(path)
    for entry in entries:
        if entry.HasField("usk") and (new := moves.get(_plain(entry.usk.name))) is not None:
            entry.usk.name = new if new.startswith(b"\0") else new + b"\0"
    write_image(path, magic, entries)


def living_names() -> set[bytes]:
    """Return the names that sockets of this network namespace are bound to now.

    As ``/proc/net/unix`` spells them, which shows zero bytes as ``@``.
    """
    with open("/proc/net/unix", "rb") as table:
        rows = [line.rstrip(b"\n").split(None, 7) for line in table][1:]
    return {row[7] for row in rows if len(row) == 8}


def spelled(name: bytes) -> bytes:
    """Return a name as `living_names` spells it."""
    return name.replace(b"\0", b"@")


def _plain(name: bytes) -> bytes:
    return name if name.startswith(b"\0") else name.rstrip(b"\0")
