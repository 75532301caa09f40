"""Where the pages in a dump's ``pages-N.img`` files live in memory.

A page's offset in its file shifts whenever an earlier page appears or goes; its
address does not. Whoever stores pages cuts them by address.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import IntegrityError
from .images import read_image

PAGE_BYTES = 4096
PRESENT = 4


class Run(NamedTuple):
    """Bytes [offset, offset+length) of a pages file, at `address` in memory."""

    offset: int
    length: int
    address: int


def page_runs(images: Path) -> dict[str, list[Run]]:
    """Return the runs of every pages file of a dump, by file name.

    Raises `IntegrityError` when a pagemap and its pages file disagree.
    """
    found: dict[str, list[Run]] = {}
    for pagemap in sorted(images.glob("pagemap-*.img")):
        messages = read_image(pagemap, "pagemap_entry", head="pagemap_head")
        if not messages:
            raise IntegrityError(f"{pagemap.name} of the dump is empty.")
        head, *entries = messages
        name = f"pages-{head.pages_id}.img"
        runs = list(_runs(entries))
        present = sum(run.length for run in runs)
        pages = images / name
        if not pages.is_file() or present != pages.stat().st_size:
            raise IntegrityError(f"{pagemap.name} and {name} of the dump do not fit together.")
        found.setdefault(name, []).extend(runs)
    return found


def _runs(entries: list[object]) -> Iterator[Run]:
    """Yield runs, joined where addresses go on without a gap."""
    offset = start = address = length = 0
    for entry in entries:
        pages: int = entry.nr_pages or entry.compat_nr_pages  # type: ignore[attr-defined]
        flags: int = entry.flags if entry.HasField("flags") else PRESENT  # type: ignore[attr-defined]
        if not flags & PRESENT:
            continue
        vaddr: int = entry.vaddr  # type: ignore[attr-defined]
        if length and vaddr == address + length:
            length += pages * PAGE_BYTES
            continue
        if length:
            yield Run(start, length, address)
            offset = start + length
        start, address, length = offset, vaddr, pages * PAGE_BYTES
    if length:
        yield Run(start, length, address)
