"""Reading the files of a checkpoint: into a folder, into memory, or only to prove them."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import (
    ChunkCorrupt,
    ChunkMissing,
    EncryptionKeyMissing,
    NotFound,
    RestoreFailed,
    quoted,
)
from ..manifest import ENCRYPTED_FORMAT, Manifest
from . import tree
from .chunks import MAX_OBJECT_BYTES, ChunkReader
from .cipher import FILE_NAME
from .layout import Layout
from .workers import Crew, Progress

_STRETCH = 16
"""Chunks a worker takes on at once."""


class _Target:
    """A file being made; closed when the last of its `parts` is written."""

    def __init__(self, descriptor: int, mode: int, parts: int) -> None:
        self.descriptor = descriptor
        self._mode = mode
        self._parts = parts
        self._lock = threading.Lock()

    def part_done(self) -> None:
        """Count one part as written; raises `OSError` when the file cannot be finished."""
        with self._lock:
            self._parts -= 1
            if self._parts <= 0:
                os.fchmod(self.descriptor, self._mode & 0o777)
                self.close()

    def close(self) -> None:
        """Close the file, if that was not done yet."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)


@dataclass
class _Stretch:
    """Some consecutive chunks of a file; without a target they are only to be proven."""

    target: _Target | None
    offset: int
    chunks: Sequence[tuple[bytes | None, int]]


class Content:
    """The files of one checkpoint."""

    def __init__(self, layout: Layout, manifest: Manifest) -> None:
        """Read the content tree; raises `ChunkMissing` or `ChunkCorrupt`."""
        self._layout = layout
        self._id = manifest.id
        if manifest.format == ENCRYPTED_FORMAT and layout.cipher is None:
            raise EncryptionKeyMissing(
                f"Checkpoint {manifest.id} is encrypted, and the store's {FILE_NAME} is gone.",
                "Put it back from a backup.")
        with self._naming(), closing(ChunkReader(layout.chunks, layout.cipher)) as reader:
            self.entries = tree.decode(reader.read(bytes.fromhex(manifest.content)))

    def prove(self, on_progress: Progress | None = None, known: set[bytes] | None = None) -> None:
        """Read every chunk and compare it with its name; those in `known` are believed.

        Chunks that proved right are added to `known`. Raises `ChunkMissing` or
        `ChunkCorrupt` at the first bad one.
        """
        seen = set() if known is None else known
        with self._naming():
            Crew(on_progress).run(self._unproven(seen), lambda: _Proving(self._layout, seen))

    def _unproven(self, seen: set[bytes]) -> Iterator[_Stretch]:
        listed: set[bytes] = set()
        for entry in self.entries:
            for stretch in _stretches(entry, None):
                fresh = [(digest, length) for digest, length in stretch.chunks
                         if digest is not None and digest not in seen and digest not in listed]
                listed.update(digest for digest, _ in fresh if digest)
                if fresh:
                    yield _Stretch(None, stretch.offset, fresh)

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; raises `NotFound`, `ChunkMissing`, `ChunkCorrupt`."""
        for entry in self.entries:
            if entry.name == name:
                break
        else:
            raise NotFound(f"Checkpoint {self._id} holds no file {name!r}.")
        if entry.size_bytes > MAX_OBJECT_BYTES:
            raise ChunkCorrupt(f"File {quoted(name)} of checkpoint {self._id} is too large to be "
                               "read into memory.")
        data, offset = bytearray(entry.size_bytes), 0
        reading = closing(ChunkReader(self._layout.chunks, self._layout.cipher))
        with self._naming(), reading as reader:
            for digest, length in entry.chunks:
                if digest is not None:
                    data[offset:offset + length] = reader.read(digest, length)
                offset += length
        return bytes(data)

    def materialise(self, folder: Path, names: Collection[str] | None = None,
                    on_progress: Progress | None = None) -> None:
        """Make every file (or those in `names`) anew below `folder`, proving each chunk.

        Zeros become holes. A file of the same name is replaced; links inside
        `folder` are not followed. Raises `NotFound` (a name the checkpoint
        lacks), `ChunkMissing`, `ChunkCorrupt`, `RestoreFailed` (the folder
        cannot be written); files may be incomplete then.
        """
        wanted = self._wanted(names)
        targets: list[_Target] = []
        try:
            with _explaining(folder), self._naming():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                Crew(on_progress).run(_targeted(folder, wanted, targets),
                                      lambda: _Copying(self._layout))
        finally:
            for target in targets:
                target.close()

    def _wanted(self, names: Collection[str] | None) -> list[tree.Entry]:
        if names is None:
            return self.entries
        wanted = [entry for entry in self.entries if entry.name in names]
        if missing := set(names) - {entry.name for entry in wanted}:
            raise NotFound(f"Checkpoint {self._id} holds no file {min(missing)!r}.")
        return wanted

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Name the checkpoint in errors about its chunks."""
        try:
            yield
        except (ChunkMissing, ChunkCorrupt) as error:
            raise type(error)(
                f"Checkpoint {self._id} is damaged: {error.message}",
                "Restore the store's chunks folder from a backup, or use another checkpoint; "
                "'jupyter ckpt verify' checks them all.") from error


class _Proving:
    """Proves chunks, in one thread."""

    def __init__(self, layout: Layout, seen: set[bytes]) -> None:
        self._reader = ChunkReader(layout.chunks, layout.cipher)
        self._seen = seen

    def work(self, job: _Stretch) -> int:
        done = 0
        for digest, length in job.chunks:
            if digest is not None:
                self._reader.read(digest, length)
                self._seen.add(digest)
            done += length
        return done

    def close(self) -> None:
        self._reader.close()


class _Copying:
    """Writes chunks to their places in files, in one thread."""

    def __init__(self, layout: Layout) -> None:
        self._reader = ChunkReader(layout.chunks, layout.cipher)

    def work(self, job: _Stretch) -> int:
        offset, target = job.offset, job.target
        assert target is not None  # made by _targeted
        for digest, length in job.chunks:
            if digest is not None:
                view, position = memoryview(self._reader.read(digest, length)), offset
                while view:
                    written = os.pwrite(target.descriptor, view, position)
                    view, position = view[written:], position + written
            offset += length
        target.part_done()
        return offset - job.offset

    def close(self) -> None:
        self._reader.close()


def _targeted(folder: Path, entries: Iterable[tree.Entry], targets: list[_Target]
              ) -> Iterator[_Stretch]:
    """Make one file after the other and yield its stretches; list the open ones in `targets`."""
    for entry in entries:
        parts = -(-len(entry.chunks) // _STRETCH)
        target = _Target(_make_file(folder, entry), entry.mode, parts)
        targets[:] = [one for one in targets if one.descriptor >= 0]
        targets.append(target)
        if parts:
            yield from _stretches(entry, target)
        else:
            target.part_done()


def _stretches(entry: tree.Entry, target: _Target | None) -> Iterator[_Stretch]:
    offset = 0
    for start in range(0, len(entry.chunks), _STRETCH):
        chunks = entry.chunks[start:start + _STRETCH]
        yield _Stretch(target, offset, chunks)
        offset += sum(length for _, length in chunks)


def _make_file(folder: Path, entry: tree.Entry) -> int:
    """Create the file of `entry` as one hole and return its descriptor."""
    parts = tree.checked_path(entry.name).split("/")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    inside = os.open(folder, flags & ~os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            with suppress(FileExistsError):  # made for an earlier file
                os.mkdir(part, 0o700, dir_fd=inside)
            deeper = os.open(part, flags, dir_fd=inside)
            os.close(inside)
            inside = deeper
        with suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=inside)  # not overwritten: it may have other names
        target = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600,
                         dir_fd=inside)
    finally:
        os.close(inside)
    try:
        os.ftruncate(target, entry.size_bytes)
    except BaseException:
        os.close(target)
        raise
    return target


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RestoreFailed(f"The files of a checkpoint cannot be written to {folder}: "
                            f"{error.strerror}.",
                            "Free space there, or check its permissions.") from error
