"""Which checkpoints were read back and are whole: what makes up for an older one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import CheckpointError
from ..manifest import Manifest
from ..store import Store

log = logging.getLogger(__name__)
REMEMBERED = 2000


class Proofs:
    """Remembers what was proven, so that each checkpoint is read back once."""

    def __init__(self) -> None:
        self._whole: set[str] = set()
        self._bad: set[str] = set()

    def cover(self, store: Store, manifest: Manifest, staying: Sequence[Manifest]) -> bool:
        """Tell whether one of `staying` (newest first) is newer than `manifest` and whole.

        It reads one back where none was yet: seconds for each GB. One that is
        damaged is said so once.
        """
        for known in (self._whole, self._bad):
            if len(known) > REMEMBERED:
                known.clear()  # agents live for weeks; proving anew costs seconds
        newer = [m for m in staying if _age_key(m) > _age_key(manifest)]
        return any(m.id in self._whole for m in newer) or any(
            self._prove(store, m) for m in newer if m.id not in self._bad)

    def _prove(self, store: Store, manifest: Manifest) -> bool:
        try:
            store.check(manifest)
        except CheckpointError as error:
            log.error("%s Older checkpoints are kept.", error.message)
            self._bad.add(manifest.id)
            return False
        self._whole.add(manifest.id)
        return True


def _age_key(manifest: Manifest) -> tuple[str, str]:
    return manifest.created_at, manifest.id
