"""Parking: a session that was saved and ended comes back when its notebook is opened.

`secure` makes sure that a checkpoint holds a kernel's present state, `mark`
marks it just before the kernel is ended. `parked_checkpoint` finds what opening
a notebook brings back, `unmark` ends the promise once it is kept, or broken.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout

from .client import OnProgress
from .errors import AgentUnreachable, CheckpointNotFound, DumpFailed, StoreUnusable
from .faults import point
from .kernels import live_agent, living_records
from .locations import Locations
from .manifest import Manifest
from .record import Record
from .store import Store


def secure(
    locations: Locations, record: Record, *, trigger: str, document: dict[str, Any] | None = None,
    deadline_s: float | None = None, on_progress: OnProgress | None = None,
) -> Manifest | None:
    """Return a checkpoint of the kernel's present state that was read back whole.

    A kernel that is as its last checkpoint holds it, beyond doubt, is not saved
    again; one that never did anything has nothing to save: None. Raises `DumpFailed` and
    its kinds, `IntegrityError`, or `AgentUnreachable` when `deadline_s` seconds
    have passed; then nothing may be ended.
    """
    agent = live_agent(locations, record)
    body = {"trigger": trigger, "document": document, "store": str(locations.store_dir),
            "unless_saved": True, "verify": True}
    request_id = secrets.token_hex(12)
    agent.put("checkpoints", request_id, body)
    try:
        job = agent.wait("checkpoints", request_id, on_progress, deadline_s)
    except AgentUnreachable as error:
        raise DumpFailed(
            f"Kernel {record.kernel_id} was not saved in time: {error.message}",
            "The kernel goes on. 'jupyter ckpt list' shows whether the checkpoint was finished."
        ) from error
    point("park.secured")
    return Manifest.from_dict(job.result) if job.result else None


def mark(locations: Locations, checkpoint_id: str) -> Manifest:
    """Let the opening of its notebook bring this checkpoint back; its kernel ends now."""
    manifest = Store.open(locations.store_dir).update(checkpoint_id, parked=True)
    point("park.marked")
    return manifest


def unmark(locations: Locations, checkpoint_id: str | None) -> None:
    """Take `mark` back, if that checkpoint is marked: its kernel lives (again)."""
    if checkpoint_id is None:
        return
    try:
        store = Store.open(locations.store_dir, create=False)
        if store.resolve(checkpoint_id).parked:
            store.update(checkpoint_id, parked=False)
    except (CheckpointNotFound, StoreUnusable):
        return


def parked_checkpoint(
    locations: Locations, notebook: str, kernel_name: str
) -> Manifest | None:
    """Return the newest checkpoint that opening `notebook` (a path) brings back.

    None when there is none for a kernel of that name, or its kernel lives.
    """
    try:
        store = Store.open(locations.store_dir, create=False)
    except StoreUnusable:
        return None
    path = os.path.realpath(notebook)
    for manifest in store.manifests():
        if (manifest.parked and manifest.kernel.get("name") == kernel_name
                and manifest.notebook is not None
                and os.path.realpath(str(manifest.notebook.get("path"))) == path):
            living = {record.kernel_id for record in living_records(locations)}
            return None if manifest.kernel.get("id") in living else manifest
    return None


@contextmanager
def claimed(locations: Locations, checkpoint_id: str) -> Iterator[bool]:
    """Hold the right to bring a parked checkpoint back; False: somebody else has it.

    Two servers that open one notebook at the same moment would restore it twice.
    """
    locations.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = locations.runtime_dir / f".parked-{checkpoint_id}.lock"
    try:
        with FileLock(path, timeout=0, mode=0o600):
            # Whoever had it before us may have been done in the meantime.
            store = Store.open(locations.store_dir, create=False)
            yield store.resolve(checkpoint_id).parked
            path.unlink(missing_ok=True)
    except Timeout:
        yield False
