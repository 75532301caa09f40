"""Keeping a store within its quota: what goes when it holds too much.

The oldest checkpoints made by themselves, of any notebook. Never one that is
named, pinned, parked or made by hand, and never the last good one of a notebook.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection

from ..manifest import Manifest
from ..sizes import size
from ..store import Store
from .proofs import Proofs
from .retention import Needed, may_go, remove

log = logging.getLogger(__name__)


def relieve(store: Store, proofs: Proofs, needed: Needed = tuple) -> list[str]:
    """Remove what has to go for the store to be within its quota; return the removed ids.

    Called by the agent after each save. Costs nothing without a quota, and a
    look at one file while the store is within it. `needed` tells the ids of
    checkpoints that somebody relies on. Raises `CheckpointError`.
    """
    quota = store.quota_bytes()
    if quota is None or store.usage_bytes() <= quota:
        return []
    removed: list[str] = []
    # Exactly, before anything goes: what was added up may be too much.
    excess = store.usage_bytes(exact=True) - quota
    while excess > 0:
        gone = _remove_some(store, proofs, needed, excess)
        if not gone:
            break
        removed += gone
        store.collect()
        # Nobody knows before how much goes: chunks are shared.
        excess = store.usage_bytes(exact=True) - quota
    if excess > 0:
        log.warning("%s", _sentence(quota + excess, quota))
    return removed


def warning(store: Store) -> str | None:
    """Return what to tell a user whose store is too full and cannot be relieved."""
    quota = store.quota_bytes()
    if quota is None:
        return None
    used = store.usage_bytes()
    if used <= quota:
        return None
    going = sum(m.stored_bytes for m in _candidates(store.manifests(), ()))
    return _sentence(used, quota) if used - going > quota else None


def _sentence(used: int, quota: int) -> str:
    return (f"The checkpoint store holds {size(used)}, more than its quota of "
            f"{size(quota)}, and what was made automatically is not enough to remove. "
            "Remove checkpoints with 'jupyter ckpt rm' and then 'jupyter ckpt gc', or change the "
            "quota with 'jupyter ckpt quota'.")


def _remove_some(
    store: Store, proofs: Proofs, needed: Needed, excess: int
) -> list[str]:
    """Remove the oldest that may go: one, and more while they stored less than is too much.

    Rather too few than too many: the caller looks at what is left, and comes again.
    """
    manifests = store.manifests()
    removed: list[str] = []
    freed = 0
    for manifest in reversed(_candidates(manifests, needed())):
        if removed and freed + manifest.stored_bytes > excess:
            break
        beside = [m for m in manifests if m.id not in removed and m.id != manifest.id
                  and _group(m) == _group(manifest)]
        if remove(store, proofs, [manifest], beside, needed):
            removed.append(manifest.id)
            freed += manifest.stored_bytes
    return removed


def _candidates(manifests: list[Manifest], needed: Collection[str]) -> list[Manifest]:
    """Return those that may go, newest first; of each notebook the newest one stays."""
    groups: dict[str, list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        groups[_group(manifest)].append(manifest)
    newest = {group[0].id for group in groups.values()}
    return [m for m in manifests if may_go(m) and m.id not in newest and m.id not in needed]


def _group(manifest: Manifest) -> str:
    """Return what stands for a checkpoint's notebook: its path, else its kernel's id."""
    return str((manifest.notebook or {}).get("path") or manifest.kernel.get("id"))
