"""Tidying up after saves: what retention and quota let go, and the chunks of what is gone."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable

from ..errors import CheckpointError, IntegrityError, UsageError
from ..offers import offered
from ..plan import KEEP_VARIABLE, Schedule, keeping
from ..record import all_records
from ..store import Store
from .core import Agent
from .kernel import Kernel
from .overflow import relieve
from .proofs import Proofs
from .retention import Retention

log = logging.getLogger(__name__)


def configured_keeping() -> Schedule | None:
    """Return what the process's environment says is kept; what is senseless is named."""
    text = os.environ.get(KEEP_VARIABLE)
    try:
        return keeping(json.loads(text)) if text else None
    except (UsageError, ValueError, RecursionError) as error:
        log.error("%s is not used: %s", KEEP_VARIABLE, error)
        return None


class Tidying:
    """Removes what need not stay, on behalf of one agent."""

    def __init__(self, agent: Agent, on_damage: Callable[[IntegrityError], None]) -> None:
        """`on_damage` is called for each checkpoint that is found damaged on the way."""
        self._agent = agent
        self._proofs = Proofs(on_damage)
        self._retention = Retention(self._proofs)

    def run(self, kernel: Kernel, disk_full: bool = False) -> None:
        """Remove old checkpoints of `kernel`, and what the quota asks for.

        When the disk is full, chunks are collected at once. What goes wrong is
        logged, and no reason to leave out the rest.
        """
        try:
            store = self._agent.tools.store()
        except CheckpointError as error:
            log.warning("old checkpoints stay: %s", error.message)
            return
        steps: list[Callable[[], list[str]]] = [
            lambda: self._retention.tidy(store, kernel.record, self._alive(), self._needed),
            lambda: self._collect(store, disk_full),
            lambda: relieve(store, self._proofs, self._needed)]
        removed: list[str] = []
        for step in steps:
            try:
                removed += step()
            except CheckpointError as error:
                log.warning("old checkpoints stay: %s", error.message)
        if removed:
            log.info("removed checkpoints: %s", ", ".join(removed))

    def _collect(self, store: Store, at_once: bool) -> list[str]:
        self._retention.collect(store, at_once)
        return []

    def _alive(self) -> set[str]:
        return {r.kernel_id for r in all_records(self._agent.folder.parent)[0] if r.is_alive()}

    def _needed(self) -> set[str]:
        """Return the ids of checkpoints that records or offers rely on, as of now.

        The parent is what a kernel comes back to when it crashes.
        """
        runtime_dir = self._agent.folder.parent
        records = all_records(runtime_dir)[0]
        found = {one for r in records for one in (r.recover, r.parent) if one is not None}
        return found | offered(runtime_dir)
