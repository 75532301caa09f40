"""Storing chunks: what the threads of one transaction do and share."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path

from ..errors import DumpFailed
from .chunks import CHUNK_BYTES, Encoder
from .claims import Claims, Workplace
from .cutting import UNIT_BYTES, Unit
from .layout import Layout
from .tree import Chunks

_ZEROS = bytes(CHUNK_BYTES)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Harvest:
    """The new chunks of one transaction, gathered by its threads."""

    def __init__(self) -> None:
        self.written: dict[bytes, str] = {}
        """Where each new chunk lies, below the transaction's folder."""
        self.new_bytes = 0
        self._taken: dict[bytes, object] = {}
        self._lock = threading.Lock()

    def take(self, digest: bytes) -> bool:
        """Tell whether the caller is the first of all threads to meet this chunk."""
        mark = object()
        return self._taken.setdefault(digest, mark) is mark

    def add(self, stored: dict[bytes, str], added_bytes: int) -> None:
        """Note chunks that were written."""
        with self._lock:
            self.written.update(stored)
            self.new_bytes += added_bytes

    def clear(self) -> None:
        """Forget the chunks, and free their memory."""
        self.written.clear()
        self._taken.clear()


class ChunkWriter:
    """Stores chunks in a folder and with buffers of its own. One for each thread."""

    def __init__(self, layout: Layout, place: Path, prove: bool, harvest: Harvest, number: int
                 ) -> None:
        """Make the folder; raises `OSError` or `StoreUnusable`."""
        self._harvest = harvest
        self._encoder = Encoder(layout.cipher)
        self._name = f"new-{number}"
        self.buffer = bytearray(UNIT_BYTES)
        self._claims = Claims(layout, place, prove)
        try:
            # A folder for each thread: creating files in one and the same is done in turns.
            os.mkdir(place / self._name, 0o700)
            self._folder = os.open(place / self._name, _FOLDER_FLAGS)
        except BaseException:
            self._claims.close()
            raise

    def keep(self, data: bytes | bytearray, lengths: tuple[int, ...]) -> Chunks:
        """Store the chunks of `data` that are new; return all of them by name.

        Raises `OSError` or `StoreUnusable`. Chunks may be taken and yet not be
        stored then: the transaction has failed.
        """
        view, offset = memoryview(data), 0
        chunks: Chunks = []
        fresh: list[tuple[bytes, memoryview]] = []
        for length in lengths:
            if length <= CHUNK_BYTES and data.startswith(_ZEROS[:length], offset):
                chunks.append((None, length))
            else:
                raw = view[offset:offset + length]
                digest = self._encoder.digest(raw)
                if self._harvest.take(digest):
                    fresh.append((digest, raw))
                chunks.append((digest, length))
            offset += length
        if fresh:
            self._store(fresh)
        return chunks

    def _store(self, fresh: list[tuple[bytes, memoryview]]) -> None:
        missing = self._claims.missing([(digest, len(raw)) for digest, raw in fresh])
        stored: dict[bytes, str] = {}
        added = 0
        for digest, raw in fresh:
            if digest in missing:
                name = digest.hex()
                added += self._encoder.write(self._folder, name, raw)
                stored[digest] = f"{self._name}/{name}"
        self._harvest.add(stored, added)

    def close(self) -> None:
        """Release descriptors and the buffer."""
        self._claims.close()
        os.close(self._folder)
        self.buffer = bytearray()


class Writers:
    """The chunk writers of one transaction, lent to one thread at a time."""

    def __init__(self, layout: Layout, workplace: Workplace, prove: bool, harvest: Harvest
                 ) -> None:
        self._layout = layout
        self._place = workplace.path
        self._prove = prove
        self._harvest = harvest
        self._idle: list[ChunkWriter] = []
        self._numbers = itertools.count()

    def lend(self) -> ChunkWriter:
        """Return a writer; give it back with `take_back`. Raises like `ChunkWriter`."""
        try:
            return self._idle.pop()
        except IndexError:
            return ChunkWriter(self._layout, self._place, self._prove, self._harvest,
                               next(self._numbers))

    def take_back(self, writer: ChunkWriter) -> None:
        self._idle.append(writer)

    def close(self) -> None:
        """Release all writers."""
        while self._idle:
            self._idle.pop().close()


class FileWorker:
    """Stores units of one source file, in one thread."""

    def __init__(self, writers: Writers, source: int, path: Path, results: list[Chunks]) -> None:
        """`source` is open for reading; the chunks of unit i go to ``results[i]``."""
        self._writers = writers
        self._writer = writers.lend()
        self._source = source
        self._path = path
        self._results = results

    def work(self, job: Unit) -> int:
        """Store one unit of the source file; return its size in bytes.

        Raises `DumpFailed` when it cannot be read whole.
        """
        total = sum(job.lengths)
        view, done = memoryview(self._writer.buffer)[:total], 0
        while done < total:
            try:
                count = os.preadv(self._source, [view[done:]], job.offset + done)
            except OSError as error:
                raise DumpFailed(f"{self._path} cannot be read: {error.strerror}.") from error
            if count == 0:
                raise DumpFailed(f"{self._path} became shorter while it was stored.",
                                 "Save again.")
            done += count
        self._results[job.index] = self._writer.keep(self._writer.buffer, job.lengths)
        return total

    def close(self) -> None:
        """Give the writer back."""
        self._writers.take_back(self._writer)
