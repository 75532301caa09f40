"""The content tree: which files a checkpoint holds and which chunks they are made of.

It is stored as one chunk whose name is the manifest's ``content``: JSON, a
list of ``{"name", "mode", "size_bytes", "chunks": [[hash or null, length]]}``.
``null`` stands for zeros, of any length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ChunkCorrupt, UsageError, quoted
from ..shapes import misfit

MAX_FILE_BYTES = 1 << 46
"""More than any address space holds."""

Chunks = list[tuple[bytes | None, int]]
"""(digest or None for zeros, length in bytes), in the order of the file."""


@dataclass
class Entry:
    """One file of a checkpoint."""

    name: str
    mode: int
    size_bytes: int
    chunks: Chunks


def checked_path(name: str) -> str:
    """Return `name` if it is a relative path that stays inside its folder.

    Raises `UsageError` otherwise.
    """
    parts = name.split("/")
    odd = any(part in ("", ".", "..") for part in parts)
    if odd or misfit(name, Path) is not None:  # a NUL, or what no file name can be
        raise UsageError(f"{quoted(name)} is no relative path inside a folder.")
    return name


def with_joined_zeros(chunks: Iterable[tuple[bytes | None, int]]) -> Chunks:
    """Return `chunks` with every run of zeros as one item."""
    joined: Chunks = []
    for digest, length in chunks:
        if digest is None and joined and joined[-1][0] is None:
            joined[-1] = (None, joined[-1][1] + length)
        else:
            joined.append((digest, length))
    return joined


def encode(entries: Sequence[Entry]) -> bytes:
    """Return the stored form of a tree: the same entries give the same bytes."""
    found = [
        {"name": entry.name, "mode": entry.mode, "size_bytes": entry.size_bytes,
         "chunks": [[digest.hex() if digest else None, length]
                    for digest, length in entry.chunks]}
        for entry in sorted(entries, key=lambda entry: entry.name)
    ]
    return json.dumps(found, separators=(",", ":"), sort_keys=True).encode()


def decode(data: bytes | memoryview) -> list[Entry]:
    """Return the entries in `data`; raise `ChunkCorrupt` when it is no tree."""
    try:
        listed = json.loads(bytes(data))
        if not isinstance(listed, list):
            raise ValueError("it is no list")
        return [_entry(item) for item in listed]
    except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
        raise ChunkCorrupt(f"The content tree is malformed: {str(error)[:200]}.") from error


def _entry(item: dict[str, object]) -> Entry:
    name, mode, size = item["name"], item["mode"], item["size_bytes"]
    listed = item["chunks"]
    if not (isinstance(name, str) and type(mode) is int and type(size) is int
            and isinstance(listed, list)):
        raise ValueError("a field has the wrong type")
    chunks: Chunks = [(None if text is None else bytes.fromhex(text), length)
                      for text, length in listed]
    if any(type(length) is not int or length <= 0 or (digest is not None and len(digest) != 32)
           for digest, length in chunks):
        raise ValueError(f"a chunk of {quoted(name)} is malformed")
    if sum(length for _, length in chunks) != size or size > MAX_FILE_BYTES:
        raise ValueError(f"the chunks of {quoted(name)} do not add up to its size")
    return Entry(checked_path(name), mode, size, chunks)


def digests(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yield the name of every chunk of a tree (repeated ones repeatedly)."""
    for entry in entries:
        for digest, _ in entry.chunks:
            if digest is not None:
                yield digest
