"""Which automatic checkpoints go: the old ones of this kernel, and only they.

Named, pinned and manual checkpoints stay. So does everything until one of the
checkpoints that stay was read back and is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from ..errors import CheckpointError, CheckpointNotFound
from ..manifest import Manifest
from ..plan import AUTOMATIC
from ..record import Record
from ..store import Store

log = logging.getLogger(__name__)
COLLECT_AFTER = 10
"""Chunks are collected after so many removals: it reads every manifest's content."""


class Retention:
    """Keeps the last few automatic checkpoints of one kernel."""

    def __init__(self) -> None:
        self._proven: set[str] = set()
        self._removed = 0

    def tidy(
        self, store: Store, record: Record, keep: int, others: Collection[str]
    ) -> list[str]:
        """Remove what is beyond the last `keep`; return the removed ids.

        `others` are the ids of other kernels that live: theirs is not ours.
        Raises `CheckpointError`; then nothing that counts is gone.
        """
        ours = [m for m in store.manifests() if _is_ours(m, record, others)]
        automatic = [m for m in ours if _is_automatic(m)]
        kept, old = automatic[:keep], automatic[keep:]
        if not old or not self._one_is_whole(store, kept):
            return []
        removed = []
        for manifest in old:
            try:
                store.remove(manifest.id)
            except CheckpointNotFound:
                continue  # somebody else was quicker
            removed.append(manifest.id)
        self._removed += len(removed)
        if self._removed >= COLLECT_AFTER:
            self._removed = 0
            found = store.collect()
            log.info("collected %d chunks", found["removed_chunks"])
        return removed

    def _one_is_whole(self, store: Store, kept: Sequence[Manifest]) -> bool:
        """Tell whether one that stays was read back and is good; each is read once."""
        self._proven &= {m.id for m in kept}
        if self._proven:
            return True
        for manifest in kept:
            try:
                store.check(manifest)
            except CheckpointError as error:
                log.error("%s Older checkpoints are kept.", error.message)
                continue
            self._proven.add(manifest.id)
            return True
        return False


def _is_ours(manifest: Manifest, record: Record, others: Collection[str]) -> bool:
    kernel_id = str(manifest.kernel.get("id"))
    if kernel_id == record.kernel_id:
        return True
    # What an ended kernel left of the same notebook would stay for ever else.
    path = (manifest.notebook or {}).get("path")
    return record.notebook is not None and path == record.notebook and kernel_id not in others


def _is_automatic(manifest: Manifest) -> bool:
    return manifest.trigger in AUTOMATIC and manifest.name is None and not manifest.pinned
