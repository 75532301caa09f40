"""What a request is meant for, and what it has answered already.

A caller whose agent died asks the next one under the same id: what was
carried out is told again, by the store and by the record, and not repeated.
"""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointNotFound, ProtocolError, StaleEpoch
from ..protocol import checkpoint_id
from ..record import Record
from .core import Agent
from .tools import Tools


def check_epoch(agent: Agent, body: dict[str, Any], request_id: str = "") -> None:
    """Take ``epoch`` out of a request; raise `StaleEpoch` when it is not the kernel's.

    A restore that is repeated after its agent died may find the old state
    brought back, in a later epoch: that is the one it was meant for.
    """
    wanted = body.pop("epoch", None)
    if wanted is None or agent.kernel is None:
        return
    if type(wanted) is not int:
        raise ProtocolError("'epoch' is a number.")
    record = agent.kernel.record
    brought_back_for = (record.origin or {}).get("for")
    if wanted != record.epoch and not (request_id and brought_back_for == request_id):
        raise StaleEpoch(
            f"The request was meant for epoch {wanted} of kernel {record.kernel_id}, which "
            f"is in epoch {record.epoch}: it was restored meanwhile.",
            "Look at the kernel as it is now, then ask again.")


def done(agent: Agent, kind: str, request_id: str, request: dict[str, Any]
         ) -> dict[str, Any] | None:
    """Return what a request has answered already, if it was carried out.

    By this agent or by one that has died since. Raises `IntegrityError` when
    the checkpoint it made is damaged.
    """
    if kind == "checkpoints":
        return _saved_by(agent, request_id, agent.tools.storing_in(request.get("store")))
    record = agent.kernel.record if agent.kernel is not None else None
    origin = (record.origin if record is not None else None) or {}
    if record is None or (origin.get("kind"), origin.get("request_id")) != (kind, request_id):
        return None
    return record.to_dict() if kind == "launches" else restore_answer(record)


def restore_answer(record: Record) -> dict[str, Any]:
    """Return what the restore answers that brought this kernel to life."""
    assert record.kernel is not None
    origin = record.origin or {}
    return {
        "kernel_id": record.kernel_id, "connection_file": record.connection_file,
        "pid": record.kernel.pid, "notebook": record.notebook, "epoch": record.epoch,
        **{name: origin.get(name) for name in ("warnings", "checkpoint", "saved_before", "busy")},
    }


def _saved_by(agent: Agent, request_id: str, tools: Tools) -> dict[str, Any] | None:
    wanted = checkpoint_id(agent.folder.name, request_id)
    try:
        manifest = tools.store().resolve(wanted)
    except CheckpointNotFound:
        return None
    if manifest.id != wanted:
        return None  # ours is only the beginning of that id
    kernel = agent.kernel
    if kernel is not None and kernel.record.parent == manifest.parent != manifest.id:
        # Whoever saved it died before the record could tell of it.
        agent.remember(kernel, parent=manifest.id)
    return manifest.to_dict()
