"""Changes to the file entries of a dump before it is restored."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .images import magic_of, read_image, write_image


def accept_present(images: Path, present: Mapping[str, tuple[int, int]]) -> None:
    """Let files come back with what they are now: {path: (size in bytes, st_mode)}."""

    def edit(reg: Any) -> None:
        path = os.fsdecode(reg.name)
        if path in present:
            reg.size, reg.mode = present[path]

    _edit_files(images, edit)


def move_folder(images: Path, old: str, new: str) -> None:
    """Let the files of folder `old` be found in folder `new`."""

    def edit(reg: Any) -> None:
        path = os.fsdecode(reg.name)
        if path.startswith(old + "/"):
            reg.name = os.fsencode(new + path[len(old) :])

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
