"""Saves on which something irrevocable is built: read back, and made once more if damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import CheckpointNotFound, IntegrityError
from ..manifest import Manifest
from ..protocol import Job
from ..store import Store
from .kernel import Kernel

log = logging.getLogger(__name__)


def read_back(
    store: Store, kernel: Kernel, job: Job, make: Callable[[], Manifest],
    forget: Callable[[], object] = lambda: None,
) -> Manifest:
    """Return the checkpoint of `kernel` that `make` saves, proven byte by byte.

    One that is damaged shares chunks that have decayed since they were stored:
    it is removed, `forget` is called, and it is made once more from memory with
    all that it shares proven. Raises what `make` raises, and `IntegrityError`
    when that one is damaged, too: then the disk is not to be relied on.
    """
    for last_try in (False, True):
        manifest = make()
        job.take_back_point_of_no_return()  # it stands, whatever becomes of reading it back
        job.enter("verifying")
        try:
            job.total_bytes = manifest.memory_bytes
            store.check(manifest, job.advance)
        except IntegrityError as error:
            kernel.distrust()
            if last_try:
                raise
            log.error("%s It is saved once more.", error.message)
            forget()
            _remove(store, manifest)
        else:
            break
    return manifest


def _remove(store: Store, manifest: Manifest) -> None:
    try:
        store.remove(manifest.id)
    except CheckpointNotFound:
        return  # somebody else was quicker
