"""Saving the agent's kernel when somebody asks for it."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..errors import CheckpointError, IntegrityError
from ..faults import point
from ..manifest import Manifest, checked_note
from ..protocol import Job, checkpoint_id
from . import overflow
from .activity import is_unchanged
from .core import Agent
from .kernel import Kernel, wait_for_start
from .kernel_link import LINK_TIMEOUT_S
from .proven import read_back
from .save import Save
from .tools import Tools

log = logging.getLogger(__name__)


def save(agent: Agent, request: dict[str, Any], job: Job) -> dict[str, Any]:
    """Save the kernel; return the manifest. Runs as a job.

    With ``unless_saved`` a kernel that is as its last checkpoint holds it, beyond
    doubt, is not saved again; the answer is that checkpoint, or {} for a kernel
    that never did anything. With ``verify`` the checkpoint is read back first.
    """
    kernel = agent.need_kernel()
    tools = agent.tools.storing_in(request.get("store"))
    checked_note(request.get("note"))  # before the freeze, not after it
    if request.get("unless_saved"):
        known = _saved_already(tools, kernel, request, job)
        if known is not None:
            return known
    error: CheckpointError | None = None
    manifest: Manifest | None = None
    try:
        with agent.doing("saving"):
            if request.get("verify"):
                manifest = _read_back(agent, tools, kernel, request, job)
            else:
                manifest = _made(agent, tools, kernel, request, job)
            return {**manifest.to_dict(), "warnings": manifest.warnings + _quota_warnings(tools)}
    except CheckpointError as caught:
        error = caught
        raise
    finally:
        kernel.link.ask(
            "finished", LINK_TIMEOUT_S, request_id=job.id,
            result=manifest.to_dict() if manifest else None,
            error=error.to_dict() if error else None)


def _made(
    agent: Agent, tools: Tools, kernel: Kernel, request: dict[str, Any], job: Job
) -> Manifest:
    """Save the kernel and let record and schedule know."""
    making = Save(tools, kernel, request, job, checkpoint_id(agent.folder.name, job.id),
                  lambda: agent.doing("frozen"))
    manifest = making.run()
    kernel.mark, kernel.saved_at = making.captured.mark, time.monotonic()
    point("save.stored")
    agent.remember(kernel, parent=manifest.id)
    point("save.recorded")
    agent.news()
    return manifest


def _read_back(
    agent: Agent, tools: Tools, kernel: Kernel, request: dict[str, Any], job: Job
) -> Manifest:
    parent = kernel.record.parent
    return read_back(
        tools.store(), kernel, job, lambda: _made(agent, tools, kernel, request, job),
        # The second one has the same id, and cannot be its own parent.
        lambda: agent.note(kernel, parent=parent))


def _saved_already(
    tools: Tools, kernel: Kernel, request: dict[str, Any], job: Job
) -> dict[str, Any] | None:
    """Return the checkpoint that holds the present state; None: it must be saved."""
    job.enter("quiescing")
    wait_for_start(kernel, job)
    if not is_unchanged(kernel, LINK_TIMEOUT_S):
        return None
    if kernel.record.parent is None:
        return {} if kernel.mark is None else None
    job.enter("verifying")
    try:
        store = tools.store()
        manifest = store.resolve(kernel.record.parent)
        if not _is_its_own(manifest, kernel, request):
            return None
        job.total_bytes = manifest.memory_bytes
        store.check(manifest, job.advance)
    except CheckpointError as error:
        log.warning("the last checkpoint will not do: %s", error.message)
        if isinstance(error, IntegrityError):
            kernel.distrust()
        return None
    return manifest.to_dict()


def _is_its_own(manifest: Manifest, kernel: Kernel, request: dict[str, Any]) -> bool:
    """Tell whether a checkpoint is one of this kernel and of the notebook it has now.

    A fork or a renamed notebook would come back at the place of another.
    """
    document = request.get("document") or {}
    return (manifest.kernel.get("id") == kernel.record.kernel_id
            and (manifest.notebook or {}).get("path")
            == (document.get("path") or kernel.record.notebook))


def _quota_warnings(tools: Tools) -> list[str]:
    """Return a sentence where the store is too full for good; a save never fails of it."""
    try:
        found = overflow.warning(tools.store())
    except CheckpointError as error:
        return [error.message]
    return [found] if found else []
