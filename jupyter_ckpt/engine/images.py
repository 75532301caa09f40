"""Reading and writing CRIU image files.

An image is an 8-byte magic, then entries: a little-endian 32-bit length and a
protobuf message (CRIU, ``images/`` and ``criu/protobuf.c``). ``pagemap``
images start with an entry of another kind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from ..errors import IntegrityError
from .schema import MESSAGES

MAGIC_BYTES = 8
_MAX_ENTRY_BYTES = 64 << 20


def split_entries(data: bytes, path: Path) -> list[bytes]:
    """Return the raw entries of an image; raise `IntegrityError` on bad bytes."""
    position, found = MAGIC_BYTES, []
    while position < len(data):
        if position + 4 > len(data):
            raise IntegrityError(f"Image {path.name} ends in the middle of an entry.")
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if length > _MAX_ENTRY_BYTES or position + length > len(data):
            raise IntegrityError(f"Image {path.name} has an entry of impossible size.")
        found.append(data[position : position + length])
        position += length
    return found


def read_image(path: Path, kind: str, head: str | None = None) -> list[Any]:
    """Return the messages of an image; the first is a `head` message if given.

    Raises `IntegrityError` naming the image when it cannot be parsed.
    """
    entries = split_entries(path.read_bytes(), path)
    kinds = [head if head and i == 0 else kind for i in range(len(entries))]
    try:
        return [MESSAGES[k].FromString(raw) for k, raw in zip(kinds, entries)]
    except DecodeError as error:
        raise IntegrityError(f"Image {path.name} cannot be parsed: {error}.") from error


def write_image(path: Path, magic: bytes, messages: Iterable[Any]) -> None:
    """Write `messages` as an image with the given first 8 bytes.

    The file is made anew (never written through a hard link of the original).
    """
    parts = [magic]
    for message in messages:
        raw = message.SerializeToString()
        parts += [struct.pack("<I", len(raw)), raw]
    path.unlink(missing_ok=True)
    path.write_bytes(b"".join(parts))


def magic_of(path: Path) -> bytes:
    with path.open("rb") as image:
        return image.read(MAGIC_BYTES)
