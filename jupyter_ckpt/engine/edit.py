"""Changes to the file entries of a dump before it is restored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .images import magic_of, read_image, write_image


def accept_present(images: Path, present: Mapping[str, tuple[int, int]]) -> None:
    """Let files come back with what they are now: {path: (size in bytes, st_mode)}."""

    def edit(reg: Any) -> None:
        if reg.name in present:
            reg.size, reg.mode = present[reg.name]

    _edit_files(images, edit)


def move_folder(images: Path, old: str, new: str) -> None:
    """Let the files of folder `old` be found in folder `new`."""

    def edit(reg: Any) -> None:
        if reg.name.startswith(old + "/"):
            reg.name = new + reg.name[len(old) :]

    if old != new:
        _edit_files(images, edit)


def _edit_files(images: Path, edit: Any) -> None:
    for name, kind in (("files.img", "file_entry"), ("reg-files.img", "reg_file_entry")):
        path = images / name
        if not path.exists():
            continue
        entries, magic = read_image(path, kind), magic_of(path)
        for entry in entries:
            if kind == "reg_file_entry":
                edit(entry)
            elif entry.HasField("reg"):
                edit(entry.reg)
        write_image(path, magic, entries)
