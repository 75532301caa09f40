"""Where files are cut into chunks.

Memory keeps its address from one checkpoint to the next, but its place in an
image file shifts with every page that comes or goes before it. So chunks are
cut at multiples of 64 KiB of the *address*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from .chunks import CHUNK_BYTES

UNIT_BYTES = 1 << 20
"""What a worker reads at once."""


@dataclass(frozen=True)
class Extent:
    """Bytes [offset, offset + length) of a file live at virtual address `address`."""

    offset: int
    length: int
    address: int


@dataclass(frozen=True)
class Unit:
    """Consecutive chunks of one file, read at once: at `offset`, `lengths` bytes each."""

    index: int
    offset: int
    lengths: tuple[int, ...]


def units(size_bytes: int, extents: Sequence[Extent] | None) -> Iterator[Unit]:
    """Yield the units of a file of `size_bytes`, in order and without gaps.

    Raises `UsageError` when the extents overlap or leave the file.
    """
    index, offset, total = 0, 0, 0
    lengths: list[int] = []
    for length in _chunks(_pieces(size_bytes, extents)):
        if total + length > UNIT_BYTES:
            yield Unit(index, offset, tuple(lengths))
            index, offset, total, lengths = index + 1, offset + total, 0, []
        lengths.append(length)
        total += length
    if lengths:
        yield Unit(index, offset, tuple(lengths))


def _chunks(pieces: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Join neighbours in one window of the address space: pages between may be absent."""
    present, total = -1, 0
    for window, length in pieces:
        if window == present and total + length <= CHUNK_BYTES:
            total += length
            continue
        if total:
            yield total
        present, total = window, length
    if total:
        yield total


def _pieces(size_bytes: int, extents: Sequence[Extent] | None) -> Iterator[tuple[int, int]]:
    position = 0
    for extent in sorted(extents or (), key=lambda extent: extent.offset):
        if extent.offset < position or extent.length < 0:
            raise UsageError(f"The extents of a file overlap at offset {extent.offset}.")
        if extent.offset + extent.length > size_bytes:
            raise UsageError(f"An extent reaches past the end of its file ({size_bytes} bytes).")
        yield from _windows(position, extent.offset - position, position, -2)
        yield from _windows(extent.offset, extent.length, extent.address, 0)
        position = extent.offset + extent.length
    yield from _windows(position, size_bytes - position, position, -2)


def _windows(offset: int, length: int, address: int, mark: int) -> Iterator[tuple[int, int]]:
    """Yield (window, length); bytes without an address get windows of their own (`mark`)."""
    while length > 0:
        step = min(length, CHUNK_BYTES - address % CHUNK_BYTES)
        window = address // CHUNK_BYTES
        yield (mark - window if mark else window), step
        address += step
        length -= step
