"""Collection: removing chunks that no checkpoint and no running transaction names."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from ..errors import CheckpointNotFound, IntegrityError, StoreUnusable
from ..faults import point
from . import damage, tree
from .chunks import ChunkReader
from .claims import read_claims, remove_dead
from .disk import explaining
from .layout import Layout
from .locks import EXCLUSIVE, LockFile
from .manifests import ManifestFolder, Version

_NAME_CHARS = 64
_HEX = frozenset("0123456789abcdef")


def age_s(layout: Layout) -> float:
    """Return how long ago the last collection began, infinity when nobody knows of one."""
    try:
        age = time.time() - os.lstat(layout.collect_lock).st_mtime
    except FileNotFoundError:
        return math.inf
    return age if age >= 0 else math.inf  # the clock was set back


class Collection:
    """One run of the collector."""

    def __init__(self, layout: Layout, manifests: ManifestFolder) -> None:
        self._layout = layout
        self._manifests = manifests
        self._marked: set[Version] = set()
        self._needed: set[bytes] = set()
        self._removed_chunks = 0
        self._removed_bytes = 0

    def run(self) -> dict[str, int]:
        """Remove what nothing needs; return ``{"removed_chunks", "removed_bytes"}``.

        Raises `IntegrityError` when a manifest or content tree cannot be read:
        its chunks are unknown, so nothing at all is removed then. Raises
        `StoreUnusable` when another collection runs.
        """
        with explaining("collect unused chunks"), LockFile(self._layout.collect_lock) as lock:
            if not lock.try_lock(EXCLUSIVE):
                raise StoreUnusable("Another collection is running in this store.",
                                    "Wait for it to end.")
            # When the last one began; one that fails is not tried again with every save.
            os.utime(self._layout.collect_lock)
            point("gc.begun")
            self._mark()
            point("gc.marked")
            self._removed_bytes += remove_dead(self._layout)
            self._manifests.remove_leftovers()
            for fan in sorted(os.listdir(self._layout.chunks)):
                if len(fan) == 2 and set(fan) <= _HEX:
                    self._sweep(fan)
            damage.review(self._layout)
            point("gc.ended")
        return {"removed_chunks": self._removed_chunks, "removed_bytes": self._removed_bytes}

    def _mark(self) -> None:
        """Note what the checkpoints need that were not looked at yet."""
        fresh = [one for one in self._versions() if one not in self._marked]
        if not fresh:
            return
        with closing(ChunkReader(self._layout.chunks, self._layout.cipher)) as reader:
            for version in fresh:
                checkpoint_id = version[0]
                try:
                    content = bytes.fromhex(self._manifests.read(checkpoint_id).content)
                    entries = tree.decode(reader.read(content))
                except CheckpointNotFound:
                    continue  # removed since the listing
                except IntegrityError as error:
                    raise type(error)(
                        f"Nothing was collected, because what checkpoint {checkpoint_id} needs "
                        f"is unknown: {error.message}",
                        f"Restore it from a backup, or remove it with "
                        f"'jupyter ckpt rm {checkpoint_id}'.") from error
                self._needed.add(content)
                self._needed.update(tree.digests(entries))
                self._marked.add(version)

    def _versions(self) -> Iterator[Version]:
        # Not only ids: a checkpoint that was found damaged is saved anew under its own, and
        # needs other chunks then. Taken before it is read: of a later one, it is read again.
        for checkpoint_id in self._manifests.ids():
            with suppress(CheckpointNotFound):  # removed since the listing
                yield self._manifests.version(checkpoint_id)

    def _sweep(self, fan: str) -> None:
        folder = self._layout.chunks / fan
        unneeded = [name for name in os.listdir(folder) if self._is_unneeded(name)]
        if not unneeded:
            return
        # Under the lock nobody finds a chunk to reuse. Claims are read before manifests: a
        # transaction that ends in between is seen in one of the two.
        with LockFile(self._layout.lock) as lock, lock.held(EXCLUSIVE):
            claimed = set(read_claims(self._layout.tmp))
            self._mark()
            for name in unneeded:
                if self._is_unneeded(name) and bytes.fromhex(name) not in claimed:
                    path = folder / name
                    self._removed_bytes += os.lstat(path).st_size
                    os.unlink(path)
                    self._removed_chunks += 1
                    point("gc.removed")

    def _is_unneeded(self, name: str) -> bool:
        return (len(name) == _NAME_CHARS and set(name) <= _HEX
                and bytes.fromhex(name) not in self._needed)
