"""Chunks known to be damaged, noted so that they are written anew.

A writer reuses a chunk that has its full length, for reading each one back would
cost every save seconds. One that was found to hold other bytes than its name says
is noted by an empty file ``damaged/<64 hex digits>``, and not reused: the next save
of a session that holds these bytes writes it over the damaged one, and all
checkpoints that need it are whole again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing, suppress

from ..errors import ChunkCorrupt, ChunkMissing
from ..manifest import Manifest
from . import tree
from .chunks import ChunkReader
from .content import Content
from .layout import Layout


def note(layout: Layout, manifest: Manifest) -> int:
    """Note the damaged chunks of a checkpoint; return how many there are.

    Reads all of it. On a disk that cannot be written nothing is noted.
    """
    with closing(ChunkReader(layout.chunks, layout.cipher)) as reader:
        damaged = [digest for digest in _digests(layout, manifest) if _is_damaged(reader, digest)]
    if damaged:
        with suppress(OSError):
            layout.damaged.mkdir(mode=0o700, exist_ok=True)
    return sum(_note(layout, digest) for digest in damaged)


def noted(layout: Layout) -> set[bytes]:
    """Return the digests of the chunks that were found damaged and not written since."""
    try:
        names = os.listdir(layout.damaged)
    except FileNotFoundError:
        return set()
    found = set()
    for name in names:
        with suppress(ValueError):  # nothing of ours
            found.add(bytes.fromhex(name))
    return found


def forget(layout: Layout, written: Iterable[bytes]) -> None:
    """Take the notes of these chunks back: they were written anew."""
    for digest in noted(layout).intersection(written):
        _forget(layout, digest)


def review(layout: Layout) -> None:
    """Take back the notes of chunks that are whole again, or gone."""
    with closing(ChunkReader(layout.chunks, layout.cipher)) as reader:
        for digest in noted(layout):
            if not _is_damaged(reader, digest):
                _forget(layout, digest)


def _digests(layout: Layout, manifest: Manifest) -> set[bytes]:
    content = bytes.fromhex(manifest.content)
    try:
        return {content, *tree.digests(Content(layout, manifest).entries)}
    except (ChunkCorrupt, ChunkMissing):
        return {content}  # it is what names the others


def _is_damaged(reader: ChunkReader, digest: bytes) -> bool:
    try:
        reader.read(digest)
    except ChunkCorrupt:
        return True
    except ChunkMissing:
        return False  # whoever looks for it sees that
    return False


def _note(layout: Layout, digest: bytes) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(layout.damaged / digest.hex(), flags, 0o600))
    except OSError:
        return False
    return True


def _forget(layout: Layout, digest: bytes) -> None:
    with suppress(OSError):  # one note too many only costs writing a chunk again
        os.unlink(layout.damaged / digest.hex())
