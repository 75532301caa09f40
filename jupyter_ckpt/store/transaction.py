"""A transaction: the writer of one checkpoint.

The order of its writes is what makes a checkpoint visible whole or not at all:
new chunks in the transaction's own folder; sync; renamed into ``chunks/``;
sync; the signed manifest, synced; renamed into ``manifests/`` (*the* commit
point); sync of that folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from ..errors import DumpFailed, UsageError
from ..faults import point
from ..manifest import Manifest
from . import damage, tree
from .chunks import CHUNK_BYTES, file_name
from .claims import Workplace, remove_dead
from .cutting import UNIT_BYTES, Extent, units
from .disk import explaining, sync_filesystem
from .layout import Layout
from .manifests import ManifestFolder
from .quota import Quota
from .storing import FileWorker, Harvest, Writers
from .workers import WORKERS, Crew, Progress

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Transaction:
    """Collects the files of one checkpoint, then makes it visible with `commit`.

    Used by one thread, as a context manager; leaving it without a commit
    leaves the store as it was. Get one from `Store.transaction`.
    """

    def __init__(self, layout: Layout, manifests: ManifestFolder, request_id: str, prove: bool
                 ) -> None:
        self._layout = layout
        self._manifests = manifests
        self._entries: dict[str, tree.Entry] = {}
        self._state = "open"
        self._harvest = Harvest()
        with explaining("begin a checkpoint"), ExitStack() as undone:
            remove_dead(layout)  # or checkpoints that are killed again and again fill the disk
            self._place = Workplace(layout, request_id)
            undone.callback(self._place.close)
            # Before the first chunk: a sync tells only of writes that have failed since then.
            self._chunks = os.open(layout.chunks, _FOLDER_FLAGS)
            undone.callback(os.close, self._chunks)
            if layout.cipher is None:  # read anew just now, with the place
                manifests.check_plain()
            point("store.begun")
            self._open = undone.pop_all()
        self._writers = Writers(layout, self._place, prove, self._harvest)

    @property
    def new_bytes(self) -> int:
        """Bytes on disk that this transaction added to the store so far."""
        return self._harvest.new_bytes

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._state = "closed"
        self._writers.close()
        self._open.close()
        self._harvest.clear()

    def add_file(self, name: str, path: Path, extents: Sequence[Extent] | None = None,
                 on_progress: Progress | None = None) -> None:
        """Add the file at `path` to the checkpoint under the relative path `name`.

        `extents` tell at which virtual addresses bytes of the file live, so
        that memory is found again where it moved within the file; bytes in no
        extent are cut by their offset. `on_progress` is called with the number
        of bytes done since its last call; an exception from it ends the work.

        Raises `UsageError` (name taken or leaving its folder, bad extents),
        `DumpFailed` (the file is gone, no regular file, or shrinks meanwhile),
        `OutOfSpace`, `StoreUnusable`. Once bytes were read, an error ends the
        whole transaction: only leaving it is possible then.
        """
        self._check_new(name)
        descriptor, found = _open_source(path)
        try:
            size = found.st_size
            found_units = list(units(size, extents))
            results: list[tree.Chunks] = [[] for _ in found_units]
            with self._storing():
                Crew(on_progress).run(
                    iter(found_units), lambda: FileWorker(self._writers, descriptor, path, results),
                    min(WORKERS, max(1, len(found_units))))
        finally:
            os.close(descriptor)
        chunks = tree.with_joined_zeros(chunk for part in results for chunk in part)
        self._entries[name] = tree.Entry(name, stat.S_IMODE(found.st_mode), size, chunks)

    def add_bytes(self, name: str, data: bytes, mode: int = 0o600) -> None:
        """Add `data` to the checkpoint as the file `name`; raises like `add_file`."""
        self._check_new(name)
        chunks: tree.Chunks = []
        with self._storing():
            for offset in range(0, len(data), UNIT_BYTES):
                part = data[offset:offset + UNIT_BYTES]
                lengths = tuple(min(CHUNK_BYTES, len(part) - start)
                                for start in range(0, len(part), CHUNK_BYTES))
                chunks += self._keep(part, lengths)
        self._entries[name] = tree.Entry(name, mode, len(data), tree.with_joined_zeros(chunks))

    def document_hash(self, data: bytes) -> str:
        """Return the hash of `data` that its manifest may show: SHA-256, keyed in an
        encrypted store, where nobody shall be able to compare it with a file he has.
        """
        cipher = self._layout.cipher
        return hashlib.sha256(data).hexdigest() if cipher is None else cipher.document_hash(data)

    def commit(self, manifest: Manifest, on_publish: Callable[[], object] = lambda: None
               ) -> Manifest:
        """Make the checkpoint durable and visible; return its manifest as published.

        `on_publish` is called just before it becomes visible; what it raises ends that.
        ``content`` and ``stored_bytes`` are filled in here. Raises `NameTaken`
        when another checkpoint has the name, `UsageError` when the id exists,
        `OutOfSpace` or `StoreUnusable`. The checkpoint is not visible then; a
        second commit (with another name, say) may follow.
        """
        self._check_open()
        with self._storing():
            content = self._store_tree()
            self._publish_chunks()
        filled = replace(manifest, content=content.hex(), stored_bytes=self.new_bytes)
        on_publish()
        with explaining("publish a checkpoint"):
            published = self._manifests.publish(filled, self._place.path)
        self._state = "committed"
        Quota(self._layout).grow(published.stored_bytes)
        return published

    @contextmanager
    def _storing(self) -> Iterator[None]:
        # A chunk may count as taken and yet not be stored after an error: no commit then.
        self._state = "failed"
        with explaining("store a checkpoint"):
            yield
        self._state = "open"

    def _store_tree(self) -> bytes:
        data = tree.encode(list(self._entries.values()))
        (digest, _), = self._keep(data, (len(data),))
        assert digest is not None  # JSON is never all zeros
        return digest

    def _keep(self, data: bytes, lengths: tuple[int, ...]) -> tree.Chunks:
        writer = self._writers.lend()
        try:
            return writer.keep(data, lengths)
        finally:
            self._writers.take_back(writer)

    def _publish_chunks(self) -> None:
        chunks, place = self._chunks, os.open(self._place.path, _FOLDER_FLAGS)
        try:
            # Before the renames: a name in chunks/ must never stand for torn bytes.
            sync_filesystem(chunks)
            point("store.chunks-synced")
            present = set(os.listdir(chunks))
            for digest, written in self._harvest.written.items():
                name = file_name(digest)
                if name[:2] not in present:
                    self._make_fan(chunks, name[:2])
                    present.add(name[:2])
                os.rename(written, name, src_dir_fd=place, dst_dir_fd=chunks)
                point("store.chunk-named")
            # Before the manifest: it must never name a chunk that a crash takes away.
            sync_filesystem(chunks)
            damage.forget(self._layout, self._harvest.written)
            self._harvest.written.clear()
            point("store.chunks-named")
        finally:
            os.close(place)

    @staticmethod
    def _make_fan(chunks: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=chunks)
        except FileExistsError:
            return  # another transaction was first

    def _check_open(self) -> None:
        if self._state != "open":
            raise UsageError(f"This transaction is {self._state}; begin another one.")

    def _check_new(self, name: str) -> None:
        self._check_open()
        tree.checked_path(name)
        if name in self._entries:
            raise UsageError(f"The checkpoint already holds a file {name!r}.")


def _open_source(path: Path) -> tuple[int, os.stat_result]:
    try:
        # O_NONBLOCK: a fifo put in the file's place must not hang the agent.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(descriptor)
    except OSError as error:
        raise DumpFailed(f"{path} cannot be stored: {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise DumpFailed(f"{path} is not a regular file.")
    return descriptor, found
