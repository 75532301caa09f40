"""Chunks: the bytes of checkpoints, each stored once under the hash of its content.

The file ``chunks/ab/<64 hex digits>`` is named by the blake3 hash of the
*raw* bytes. It holds either the raw bytes as they are (so a chunk of 64 KiB
takes exactly its blocks), or a header followed by one zstd frame::

    magic "JCZ1" | raw length, u64 little endian | frame length, u32 little endian

A reader trusts neither form: the bytes count only if their hash is the name.
In an encrypted store the hash is keyed and either form is sealed (see cipher.py).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import zstandard
from blake3 import blake3

from ..errors import ChunkCorrupt, ChunkMissing, StoreUnusable
from ..faults import point
from .cipher import HEADER as _HEADER
from .cipher import MAGIC as SEALED_MAGIC
from .cipher import NONCE_BYTES, Cipher
from .disk import write_all

CHUNK_BYTES = 65536
MAX_OBJECT_BYTES = 1 << 30
"""No object is larger; a damaged header must not make us ask for more memory."""
SEALED_BYTES = _HEADER.size + NONCE_BYTES + 16
"""What sealing adds at most to the raw bytes."""
_MAGIC = b"JCZ1"
_PROBE_BYTES = 4096
_LEVEL = 1
_WORTH = 0.9
"""Compress what becomes smaller than this part of itself."""
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: a fifo in the place of a file is damage, not a reason to wait."""
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """Return the 32 bytes that name `data`."""
    return blake3(data).digest()


def file_name(digest: bytes) -> str:
    """Return the path of a chunk below ``chunks/``."""
    name = digest.hex()
    return f"{name[:2]}/{name}"


class Encoder:
    """Turns raw bytes into what a chunk file holds. One for each thread."""

    def __init__(self, cipher: Cipher | None) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL)
        self._cipher = cipher

    def digest(self, raw: memoryview) -> bytes:
        """Return the name of `raw` in this store."""
        return digest_of(raw) if self._cipher is None else self._cipher.digest(raw)

    def write(self, folder: int, name: str, raw: memoryview) -> int:
        """Create the file `name` in `folder` (a descriptor); return its size in bytes.

        Raises `OSError`; a torn file may stay then.
        """
        frame = self._frame(raw)
        point("store.chunk")
        descriptor = os.open(name, _WRITE_FLAGS, 0o600, dir_fd=folder)
        try:
            if self._cipher is not None:
                stored = bytes(raw) if frame is None else _framed(raw, frame)
                return write_all(descriptor,
                                 self._cipher.sealed(stored, len(raw), bytes.fromhex(name)))
            if frame is None:
                return write_all(descriptor, raw)
            return write_all(descriptor, _HEADER.pack(_MAGIC, len(raw), len(frame)), frame)
        finally:
            os.close(descriptor)

    def _frame(self, raw: memoryview) -> bytes | None:
        size = len(raw)
        if size > 4 * _PROBE_BYTES:
            # Most incompressible chunks are known by a few pages of their middle.
            middle = (size - _PROBE_BYTES) // 2
            probe = self._compressor.compress(raw[middle:middle + _PROBE_BYTES])
            if len(probe) > _WORTH * _PROBE_BYTES:
                return None
        frame = self._compressor.compress(raw)
        return frame if len(frame) + _HEADER.size < _WORTH * size else None


def _framed(raw: memoryview, frame: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, len(raw), len(frame)) + frame


class ChunkReader:
    """Reads chunks and proves them. One for each thread; close it after use."""

    def __init__(self, chunks: Path, cipher: Cipher | None = None) -> None:
        self._cipher = cipher
        self._digest = digest_of if cipher is None else cipher.digest
        try:
            self._folder = os.open(chunks, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise StoreUnusable(f"{chunks} cannot be opened: {error.strerror}.",
                                "Check the permissions of the store's folder.") from error
        self._decompressor = zstandard.ZstdDecompressor()
        self._buffer = bytearray(CHUNK_BYTES + SEALED_BYTES + 1)

    def close(self) -> None:
        """Release the descriptor and the buffer."""
        os.close(self._folder)
        self._buffer = bytearray()

    def read(self, digest: bytes, size_bytes: int | None = None) -> bytes | memoryview:
        """Return the raw bytes named `digest`, valid until the next call.

        Raises `ChunkMissing` when there is no such chunk, and `ChunkCorrupt`
        when its bytes are not the named ones or not `size_bytes` many.
        """
        stored = self._stored(digest)
        if self._cipher is not None:
            opened = self._cipher.opened(stored, digest)
            stored = memoryview(b"" if opened is None else opened)
        for raw in (self._unframed(stored, size_bytes), stored):
            if raw is not None and size_bytes in (None, len(raw)) and self._digest(raw) == digest:
                return raw
        raise ChunkCorrupt(f"The bytes of chunk {digest.hex()} are damaged.")

    def is_whole(self, digest: bytes, size_bytes: int) -> bool:
        """Tell cheaply whether a chunk is there in full length.

        Chunks are renamed into place after they reached the disk, so the
        length gives away all that can happen short of decay (see `is_true`).
        """
        try:
            found = os.stat(file_name(digest), dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            return False
        if self._cipher is None and found.st_size == size_bytes:
            return True
        return self._has_header(digest, size_bytes, found.st_size)

    def is_true(self, digest: bytes, size_bytes: int) -> bool:
        """Tell whether a chunk is there and its bytes are the named ones, by reading it."""
        try:
            self.read(digest, size_bytes)
        except (ChunkMissing, ChunkCorrupt):
            return False
        return True

    def _has_header(self, digest: bytes, size_bytes: int, stored_bytes: int) -> bool:
        descriptor = os.open(file_name(digest), _READ_FLAGS, dir_fd=self._folder)
        try:
            head = os.read(descriptor, _HEADER.size)
        finally:
            os.close(descriptor)
        if len(head) < _HEADER.size:
            return False
        magic, raw_bytes, frame_bytes = _HEADER.unpack(head)
        wanted, more = (_MAGIC, 0) if self._cipher is None else (SEALED_MAGIC, NONCE_BYTES)
        return bool(magic == wanted and raw_bytes == size_bytes
                    and _HEADER.size + more + frame_bytes == stored_bytes)

    def _stored(self, digest: bytes) -> memoryview:
        try:
            descriptor = os.open(file_name(digest), _READ_FLAGS, dir_fd=self._folder)
        except FileNotFoundError as error:
            raise ChunkMissing(f"Chunk {digest.hex()} is missing.") from error
        except OSError as error:
            raise ChunkCorrupt(f"Chunk {digest.hex()} cannot be opened: {error.strerror}."
                               ) from error
        try:
            count = os.readv(descriptor, [self._buffer])
            if count < len(self._buffer):
                return memoryview(self._buffer)[:count]
            return self._long(descriptor, digest)
        except OSError as error:
            raise ChunkCorrupt(f"Chunk {digest.hex()} cannot be read: {error.strerror}."
                               ) from error
        finally:
            os.close(descriptor)

    def _long(self, descriptor: int, digest: bytes) -> memoryview:
        size = os.fstat(descriptor).st_size
        if size > MAX_OBJECT_BYTES:
            raise ChunkCorrupt(f"Chunk {digest.hex()} has the absurd length of {size} bytes.")
        parts, offset = [bytes(self._buffer)], len(self._buffer)
        while part := os.pread(descriptor, 1 << 24, offset):
            parts.append(part)
            offset += len(part)
        return memoryview(b"".join(parts))

    def _unframed(self, stored: memoryview, size_bytes: int | None) -> bytes | None:
        if len(stored) < _HEADER.size or stored[:4] != _MAGIC:
            return None
        _, raw_bytes, frame_bytes = _HEADER.unpack_from(stored)
        frame = stored[_HEADER.size:]
        limit = MAX_OBJECT_BYTES if size_bytes is None else size_bytes
        if len(frame) != frame_bytes or raw_bytes > limit:
            return None
        try:
            # The frame has its own idea of the length; only one that agrees is believed.
            if zstandard.frame_content_size(frame) != raw_bytes:
                return None
            return self._decompressor.decompress(frame)
        except zstandard.ZstdError:
            return None
