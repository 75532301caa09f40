"""Claims: how a running transaction keeps collection away from its chunks.

A transaction owns a folder ``tmp/<request>-x`` with two files: ``lock``, which
it keeps locked for its life (so a dead one is known by a free lock), and
``claims``, the digests of every chunk its manifest will name. A chunk is
looked up and claimed under the store's shared lock, and removed only under
the exclusive one after reading all claims, so what a transaction found there
stays there. A claim ends with the folder: after the manifest was published.

Who reads a checkpoint claims its chunks in the same way, and names it in the
file ``reads``: such a one is not removed unless a person says so.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..faults import point
from . import damage
from .chunks import ChunkReader
from .layout import Layout
from .locks import EXCLUSIVE, SHARED, LockFile

_DIGEST_BYTES = 32
_READS = "reads"
_MADE_HERE = re.compile(r"[A-Za-z0-9_-]{1,80}-[0-9a-f]{8}")
"""Names of the folders that a `Workplace` makes; all else is somebody else's."""


class Workplace:
    """The folder of one running transaction. Closing removes it."""

    def __init__(self, layout: Layout, request_id: str) -> None:
        """Make the folder; nothing is left when that fails.

        Raises `OSError`, `StoreUnusable`, and what `Layout.unlock_for_writing` does.
        """
        self._layout = layout
        self.path = layout.tmp / f"{request_id}-{secrets.token_hex(4)}"
        # Under the lock a folder never lacks its own lock, so nobody takes it for a dead one.
        with LockFile(layout.lock) as lock, lock.held(SHARED):
            # From here on the folder keeps a plain store from becoming an encrypted one.
            layout.unlock_for_writing()
            self.path.mkdir(mode=0o700)
            try:
                self._lock = LockFile(self.path / "lock")
                self._lock.lock(EXCLUSIVE)
            except BaseException:
                shutil.rmtree(self.path, ignore_errors=True)
                raise

    def close(self) -> None:
        """Remove the folder and with it the claims. What cannot be removed a collection will."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


class Reading:
    """The claim of one who reads a checkpoint. Closing gives it up."""

    def __init__(self, layout: Layout, checkpoint_id: str) -> None:
        """Name the checkpoint; raises `OSError` or `StoreUnusable` (nothing is left then)."""
        self._place = Workplace(layout, f"read-{checkpoint_id}")
        self._layout = layout
        try:
            (self._place.path / _READS).write_text(checkpoint_id)
        except BaseException:
            self._place.close()
            raise

    def claim(self, digests: Iterable[bytes]) -> None:
        """Keep these chunks, those of them that are there; raises `OSError`."""
        data = b"".join(digests)
        with LockFile(self._layout.lock) as lock, lock.held(SHARED), \
                open(self._place.path / "claims", "ab") as file:
            file.write(data)

    def close(self) -> None:
        self._place.close()


class Claims:
    """Looks chunks up and claims them for one transaction. One for each thread."""

    def __init__(self, layout: Layout, folder: Path, prove: bool) -> None:
        self._reader = ChunkReader(layout.chunks, layout.cipher)
        self._lock = LockFile(layout.lock)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(folder / "claims", flags, 0o600)
        self._found = self._reader.is_true if prove else self._reader.is_whole
        self._damaged = damage.noted(layout)

    def missing(self, wanted: Sequence[tuple[bytes, int]]) -> set[bytes]:
        """Claim `wanted` (digest, length in bytes); return those the store lacks.

        Raises `OSError` when the claims cannot be written.
        """
        with self._lock.held(SHARED):
            claims = memoryview(b"".join(digest for digest, _ in wanted))
            while claims:
                claims = claims[os.write(self._descriptor, claims):]
            point("store.claimed")
            return {digest for digest, size in wanted
                    if digest in self._damaged or not self._found(digest, size)}

    def close(self) -> None:
        self._reader.close()
        self._lock.close()
        os.close(self._descriptor)


def read_claims(tmp: Path) -> Iterator[bytes]:
    """Yield what all transactions claim. Call it under the exclusive lock."""
    for folder in os.listdir(tmp):
        try:
            data = (tmp / folder / "claims").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue  # just begun, or just published: then its manifest tells
        for offset in range(0, len(data) - _DIGEST_BYTES + 1, _DIGEST_BYTES):
            yield data[offset:offset + _DIGEST_BYTES]


def is_read(tmp: Path, checkpoint_id: str) -> bool:
    """Tell whether somebody reads a checkpoint now, or has died at it of late."""
    for folder in os.listdir(tmp):
        try:
            if (tmp / folder / _READS).read_text() == checkpoint_id:
                return True
        except (FileNotFoundError, NotADirectoryError):
            continue  # a writer's, or one that has just ended
    return False


def remove_dead(layout: Layout) -> int:
    """Remove the folders of transactions whose process is gone; return the bytes freed."""
    freed = 0
    for name in os.listdir(layout.tmp):
        path = layout.tmp / name
        if not _MADE_HERE.fullmatch(name) or not _is_dead(layout, path):
            continue
        for folder, _, files in os.walk(path):
            for file in files:
                try:
                    freed += os.lstat(os.path.join(folder, file)).st_size
                except FileNotFoundError:
                    continue  # removed by its ending owner at this moment
        shutil.rmtree(path, ignore_errors=True)
    return freed


def _is_dead(layout: Layout, path: Path) -> bool:
    # The exclusive lock: no folder is between its making and its locking now.
    with LockFile(layout.lock) as store_lock, store_lock.held(EXCLUSIVE):
        if path.is_symlink() or not path.is_dir():
            return False
        try:
            if not (path / "lock").exists():
                return True
            with LockFile(path / "lock") as lock:
                return lock.try_lock(EXCLUSIVE)
        except FileNotFoundError:
            return False  # its owner removed it at this moment
