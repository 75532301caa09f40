"""Saving the agent's kernel when somebody asks for it."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..errors import CheckpointError
from ..faults import point
from ..manifest import Manifest, checked_note
from ..protocol import Job, checkpoint_id
from . import overflow
from .activity import went_on
from .core import Agent
from .kernel import Kernel
from .kernel_link import LINK_TIMEOUT_S
from .save import Save
from .tools import Tools

log = logging.getLogger(__name__)


def save(agent: Agent, request: dict[str, Any], job: Job) -> dict[str, Any]:
    """Save the kernel; return the manifest. Runs as a job.

    With ``unless_saved`` a kernel that did nothing since its last checkpoint
    is not saved again; the answer is that checkpoint, or {} for a kernel that
    never did anything. With ``verify`` the checkpoint is read back first.
    """
    kernel = agent.need_kernel()
    tools = agent.tools.storing_in(request.get("store"))
    if isinstance(note := request.get("note"), str):
        checked_note(note)  # before the freeze, not after it
    if request.get("unless_saved"):
        known = _saved_already(tools, kernel, job)
        if known is not None:
            return known
    error: CheckpointError | None = None
    manifest: Manifest | None = None
    try:
        with agent.doing("frozen"):
            making = Save(tools, kernel, request, job, checkpoint_id(agent.folder.name, job.id))
            manifest = making.run()
            kernel.mark, kernel.saved_at = making.mark, time.monotonic()
            point("save.stored")
            agent.note(kernel, parent=manifest.id)
            point("save.recorded")
            agent.news()
            if request.get("verify"):
                job.enter("verifying")
                tools.store().check(manifest)
            return {**manifest.to_dict(), "warnings": manifest.warnings + _quota_warnings(tools)}
    except CheckpointError as caught:
        error = caught
        raise
    finally:
        kernel.link.ask(
            "finished", LINK_TIMEOUT_S, request_id=job.id,
            result=manifest.to_dict() if manifest else None,
            error=error.to_dict() if error else None)


def _saved_already(tools: Tools, kernel: Kernel, job: Job) -> dict[str, Any] | None:
    """Return the checkpoint that holds the present state; None: it must be saved."""
    if went_on(kernel, LINK_TIMEOUT_S):
        return None
    if kernel.record.parent is None:
        return {} if kernel.mark is None else None
    job.enter("verifying")
    try:
        store = tools.store()
        manifest = store.resolve(kernel.record.parent)
        store.check(manifest)
    except CheckpointError as error:
        log.warning("the last checkpoint will not do: %s", error.message)
        return None
    return manifest.to_dict()


def _quota_warnings(tools: Tools) -> list[str]:
    """Return a sentence where the store is too full for good; a save never fails of it."""
    try:
        found = overflow.warning(tools.store())
    except CheckpointError as error:
        return [error.message]
    return [found] if found else []
