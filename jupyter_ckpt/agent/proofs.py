"""Which checkpoints were read back and are whole: what makes up for an older one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..errors import CheckpointError, CheckpointNotFound, IntegrityError
from ..manifest import Manifest
from ..store import Store

log = logging.getLogger(__name__)
REMEMBERED = 2000


class Proofs:
    """Remembers what was proven, so that each checkpoint is read back once."""

    def __init__(self, on_damage: Callable[[IntegrityError], None] = lambda error: None) -> None:
        """`on_damage` is called for each checkpoint that is found damaged."""
        self._on_damage = on_damage
        self._whole: set[str] = set()
        self._bad: set[str] = set()

    def cover(
        self, store: Store, manifest: Manifest, staying: Sequence[Manifest]
    ) -> Manifest | None:
        """Return one of `staying` (newest first) that is newer than `manifest` and whole.

        It reads one back where none was yet: seconds for each GB. One that is
        damaged is said so once.
        """
        for judged in (self._whole, self._bad):
            if len(judged) > REMEMBERED:
                judged.clear()  # agents live for weeks; proving anew costs seconds
        newer = [m for m in staying if _age_key(m) > _age_key(manifest)]
        known = [m for m in newer if m.id in self._whole]
        proven = (m for m in newer if m.id not in self._bad and self._prove(store, m))
        return known[0] if known else next(proven, None)

    def _prove(self, store: Store, manifest: Manifest) -> bool:
        try:
            store.check(manifest)
        except CheckpointNotFound:
            return False  # somebody removed it meanwhile
        except CheckpointError as error:
            log.error("%s Older checkpoints are kept.", error.message)
            self._bad.add(manifest.id)
            if isinstance(error, IntegrityError):
                self._on_damage(error)
            return False
        self._whole.add(manifest.id)
        return True


def _age_key(manifest: Manifest) -> tuple[str, str]:
    return manifest.created_at, manifest.id
