"""Which checkpoints go that were made by themselves: the old ones of this notebook.

Named, pinned, parked and manual checkpoints stay. So does everything that has
no newer one beside it that stays, was read back and is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial

from ..errors import CheckpointNotFound
from ..faults import point
from ..manifest import Manifest
from ..plan import AUTOMATIC, Schedule
from ..record import Record
from ..store import Store
from .proofs import Proofs

log = logging.getLogger(__name__)
COLLECT_AFTER = 10
COLLECT_EVERY_S = 86_400.0
"""Chunks are collected after so many removals or so long: it reads every manifest's content."""
SAFETY = ("before-restore", "fork", "cull", "shutdown")
"""Purposes and triggers of checkpoints made along with something else."""
SAFETY_KEPT = 3
"""So many of each of these stay, with a schedule and without."""
Needed = Callable[[], Collection[str]]
"""Tells the ids of checkpoints that somebody relies on, as of now."""
_HOUR, _DAY = "%Y-%m-%d %H %z", "%Y-%m-%d"


class Retention:
    """Keeps what the schedule of one kernel says of the checkpoints made by themselves."""

    def __init__(self, proofs: Proofs | None = None) -> None:
        self._proofs = proofs or Proofs()
        self._removed = 0

    def tidy(
        self, store: Store, record: Record, others: Collection[str], needed: Needed = tuple
    ) -> list[str]:
        """Remove what need not stay; return the removed ids.

        `others` are the ids of other kernels that live: theirs is not ours.
        `needed` tells the ids of checkpoints that somebody relies on.
        Raises `CheckpointError`; then nothing that counts is gone.
        """
        ours = [m for m in store.manifests() if _is_ours(m, record, others)]
        old = {m.id for m in _old(ours, record.schedule)} - set(needed())
        going = [m for m in ours if m.id in old]
        removed = remove(store, self._proofs, going, [m for m in ours if m.id not in old], needed)
        self._removed += len(removed)
        return removed

    def collect(self, store: Store, at_once: bool = False) -> None:
        """Remove the chunks that nothing needs any more, if that is due, or `at_once`.

        Raises `CheckpointError`.
        """
        # The day: an agent may live for one removal only, and whoever says rm may forget gc.
        if not at_once and self._removed < COLLECT_AFTER and (
                store.collection_age_s() <= COLLECT_EVERY_S):
            return
        self._removed = 0
        found = store.collect()
        log.info("collected %d chunks", found["removed_chunks"])


def remove(
    store: Store, proofs: Proofs, going: Sequence[Manifest], staying: Sequence[Manifest],
    needed: Needed = tuple,
) -> list[str]:
    """Remove those of `going` that a whole newer one of `staying` makes up for.

    Both newest first. Called by retention and quota; returns the removed ids. A
    proof may take minutes: what was pinned, named or needed meanwhile stays.
    """
    removed = []
    for manifest in going:
        cover = proofs.cover(store, manifest, staying)
        if cover is None:
            continue
        try:
            if not store.remove_if(manifest.id, partial(_may_still_go, store, cover.id, needed)):
                continue
        except CheckpointNotFound:
            continue  # somebody else was quicker
        point("retention.removed")
        removed.append(manifest.id)
    return removed


def _may_still_go(store: Store, cover_id: str, needed: Needed, manifest: Manifest) -> bool:
    return may_go(manifest) and manifest.id not in needed() and store.holds(cover_id)


def may_go(manifest: Manifest) -> bool:
    """Tell whether nobody asked for this checkpoint, and nobody claimed it since."""
    by_itself = manifest.trigger in AUTOMATIC or _safety(manifest) is not None
    return by_itself and manifest.name is None and not (manifest.pinned or manifest.parked)


def _safety(manifest: Manifest) -> str | None:
    """Return along with what a checkpoint was made, one of `SAFETY`, if it was."""
    return next((kind for kind in (manifest.purpose, manifest.trigger) if kind in SAFETY), None)


def _old(ours: Sequence[Manifest], schedule: Schedule | None) -> list[Manifest]:
    """Return those of `ours`, newest first, that no rule keeps."""
    loose = [m for m in ours if may_go(m)]
    found: list[Manifest] = []
    for kind in SAFETY:
        found += [m for m in loose if _safety(m) == kind][SAFETY_KEPT:]
    if schedule is not None:
        automatic = [m for m in loose if _safety(m) is None]
        kept = {m.id for m in automatic[:schedule.kept]}
        kept |= _newest_of_each(automatic, _HOUR, schedule.keep_hourly or 0)
        kept |= _newest_of_each(automatic, _DAY, schedule.keep_daily or 0)
        found += [m for m in automatic if m.id not in kept]
    return found


def _newest_of_each(manifests: Sequence[Manifest], period: str, count: int) -> set[str]:
    """Return the newest of each of the last `count` periods that have one, in local time."""
    newest: dict[str, str] = {}
    for manifest in manifests:
        newest.setdefault(_period(manifest.created_at, period), manifest.id)
    return set(list(newest.values())[:count])


def _period(created_at: str, period: str) -> str:
    try:
        return datetime.fromisoformat(created_at.replace("Z", "+00:00")).astimezone().strftime(
            period)
    except (ValueError, OverflowError):
        return created_at  # no time at all: in doubt a period of its own


def _is_ours(manifest: Manifest, record: Record, others: Collection[str]) -> bool:
    kernel_id = str(manifest.kernel.get("id"))
    if kernel_id == record.kernel_id:
        return True
    # What an ended kernel left of the same notebook would stay for ever else.
    path = (manifest.notebook or {}).get("path")
    return record.notebook is not None and path == record.notebook and kernel_id not in others
