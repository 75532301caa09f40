"""Restoring in place: what lives is saved first, and comes back if what replaces it fails."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..box.contract import identities
from ..box.hangup import reset_on_end
from ..errors import (
    AgentUnreachable,
    CannotBeSaved,
    CheckpointError,
    CheckpointRefused,
    KernelNotFound,
    RestoreFailed,
    RestoreRefused,
    UsageError,
)
from ..faults import point
from ..manifest import Manifest, new_id
from ..offers import dismiss
from ..protocol import Job
from ..record import Record
from ..remains import restore_mark
from ..store import Store
from . import exchange
from .activity import Mark
from .core import Agent
from .kernel import Kernel
from .kernel_link import LINK_TIMEOUT_S
from .preparing import Prepared
from .proven import read_back
from .requests import restore_answer
from .restore import Restore
from .save import Save
from .storing import PROVEN_WARNING

log = logging.getLogger(__name__)
SAFETY_NOTE = "The session as it was before it was restored to {0}."
NOT_BACK = "it was to be replaced, and could not be brought back"
INHERITED = ("owner", "session", "notebook", "connection_file")


def restore(agent: Agent, request: dict[str, Any], job: Job) -> dict[str, Any]:
    """Restore a checkpoint here, in place of the kernel that runs, if one does. Runs as a job.

    A running kernel is saved first, and comes back when the restore fails. Raises
    `UsageError`, and touches nothing, where none was to be replaced: another restore
    has been faster.
    """
    if agent.kernel is not None and request.get("in_place") is False:
        raise UsageError(f"Kernel {agent.kernel.record.kernel_id} is running.",
                         "Restore in place, or as a new kernel.")
    # Of a checkpoint or of the kernel that is replaced, never of who asks.
    request = {name: value for name, value in request.items() if name != "schedule"}
    if agent.kernel is not None:
        request = inheriting(request, agent.kernel.record)
        if request.get("connection") is None:  # whoever talks to it now goes on
            request["connection"] = agent.kernel.connection()
    with agent.doing("restoring"):
        return Replacement(agent, request, job).run()


def recover(agent: Agent, job: Job) -> dict[str, Any]:
    """Restore what an agent that died had stopped in order to replace it. Runs as a job."""
    record, agent.unfinished = agent.unfinished, None
    assert record is not None
    job.pass_point_of_no_return()  # long ago
    request = inheriting({"checkpoint": record.recover, "store": record.recover_store,
                          "files": "put-back"}, record)
    try:
        with agent.doing("restoring"):
            answer = Replacement(agent, request, job, record.recover, record.replaced_by).run()
    except AgentUnreachable:
        raise  # the agent that has our place brings it back
    except Exception:
        # Not tried for ever: the checkpoint stays, and whoever looks is told.
        assert record.recover is not None
        store_dir = Path(record.recover_store or agent.tools.store_dir)
        agent.offer_lost(record, record.recover, store_dir, NOT_BACK)
        agent.record_file.remove()
        raise
    dismiss(agent.tools.runtime_dir, record.kernel_id)  # of one that ended before it
    return answer


def inheriting(request: dict[str, Any], record: Record) -> dict[str, Any]:
    """Return a request to restore what follows on the kernel of `record`, as that was known."""
    found = {name: getattr(record, name) for name in INHERITED if request.get(name) is None}
    return {**request, **found,
            "schedule": record.schedule.to_dict() if record.schedule else None,
            "epoch": max(int(request.get("epoch") or 0), record.epoch)}


class Replacement:
    """One restore that makes the agent's kernel, in place of the one it has, if it has one.

    Whatever fails: an old kernel that was not stopped yet lives on as if
    nothing had been asked; one that was is brought back from the checkpoint
    made of it before.
    """

    def __init__(self, agent: Agent, request: dict[str, Any], job: Job,
                 recovered: str | None = None, asked_by: str | None = None) -> None:
        """`recovered`: the checkpoint that the record says must be brought back, if it is
        that one; `asked_by`: the id of the restore that had its kernel stopped.
        """
        self._agent, self._request, self._job = agent, request, job
        self._tools = agent.tools.storing_in(request.get("store"))
        self._recovered, self._asked_by = recovered, asked_by
        self._mark = restore_mark(agent.folder.name)
        self._old = agent.kernel
        origin = (self._old.record.origin if self._old is not None else None) or {}
        # An agent died over this very restore, and the next one brought the old state back:
        # what happened to files then is told with the answer, for nobody else asks.
        self._told = origin.get("warnings") or [] if origin.get("for") == job.id else []
        self._safety: Manifest | None = None
        """The state of the old kernel."""
        self._is_stopped = False
        """Whether the old kernel is not ours any more: it is stopped, or half so."""
        self._made: Kernel | None = None

    def run(self) -> dict[str, Any]:
        """Restore, and return the request's answer. Raises `RestoreFailed` and its kinds."""
        store = self._tools.store()
        point("restore.begun")
        manifest = store.resolve(str(self._request.get("checkpoint", "")))
        restore = self._restore()
        with self._tools.work_folder(self._job.id, self._mark) as work:
            prepared = restore.prepare(store, manifest, work, self._old)
            point("restore.unpacked")
            if self._old is not None:
                self._safety = self._save(self._old, store, manifest)
                prepared.warnings += [w for w in self._safety.warnings if w == PROVEN_WARNING]
            try:
                made = self._replace(restore, prepared)
            except Exception as error:
                if self._agent.record_file.has_place():  # else the other agent brings it back
                    self._undo(error)
                raise
        return restore_answer(made.record)

    def _restore(self, request: dict[str, Any] | None = None) -> Restore:
        return Restore(self._tools, self._agent.record_file, request or self._request, self._job)

    def _save(self, old: Kernel, store: Store, wanted: Manifest) -> Manifest:
        """Save the kernel that is to be replaced by `wanted`, and read that back.

        Raises `RestoreRefused` where its state is such that it cannot be saved.
        """
        note = SAFETY_NOTE.format(wanted.name or wanted.id)
        request = {"trigger": "api", "note": note, "purpose": "before-restore"}
        # Not an id of this request: asked again, it saves a later state.
        try:
            safety = read_back(store, old, self._job, lambda: Save(
                self._tools, old, request, self._job, new_id()).run())
        except (CannotBeSaved, CheckpointRefused) as error:
            raise RestoreRefused(
                "Nothing was restored: the session as it is now is saved before it is replaced, "
                f"and that is not possible. {error.message}",
                " ".join(filter(None, [
                    error.hint, "Or give its present state up: shut the kernel down "
                    f"('jupyter ckpt stop {old.record.kernel_id}'), then restore again."])),
                error.log) from error
        point("restore.saved")
        return safety

    def _replace(self, restore: Restore, prepared: Prepared) -> Kernel:
        recover = self._recovered
        if self._old is not None and self._safety is not None:
            recover = self._safety.id
            self._make_way(self._old, self._safety)
        self._made = made = restore.run(prepared, recover, self._asked_by or self._job.id)
        self._take(made, {
            "kind": self._job.kind, "request_id": self._job.id, "for": self._asked_by,
            "warnings": [*self._told, *prepared.warnings], "checkpoint": prepared.manifest.id,
            "saved_before": self._safety.id if self._safety else None,
            "busy": prepared.manifest.kernel.get("busy")})
        return made

    def _make_way(self, old: Kernel, safety: Manifest) -> None:
        """Stop the kernel that is to be replaced, and note what to bring back."""
        self._job.pass_point_of_no_return()
        # The point of no return for the old process: all that could be refused
        # was, and its state is stored and was read back. Should we die from here
        # on, the next agent brings that state back.
        self._agent.note(old, recover=safety.id, recover_store=str(self._tools.store_dir),
                         replaced_by=self._job.id)
        point("restore.marked")
        # Or the restore on the same ports would wait a minute for TIME_WAIT.
        reset_on_end(each.pid for each in identities(old.record.root))
        self._is_stopped = self._agent.let_go(old)
        if not self._is_stopped:
            raise KernelNotFound(
                f"Kernel {old.record.kernel_id} ended while it was about to be replaced.",
                f"Its last state is checkpoint {safety.id}.")
        old.box.stop(old.record.kernel)
        point("restore.stopped")

    def _take(self, kernel: Kernel, origin: dict[str, Any] | None) -> None:
        """Make a restored kernel the agent's; from here on nobody needs the old state."""
        kernel.record.origin = origin
        kernel.mark = Mark.of(kernel.record.root, kernel.link.ask("status", LINK_TIMEOUT_S))
        kernel.saved_at = time.monotonic()
        kernel.record.recover = kernel.record.replaced_by = None
        point("restore.told")
        self._agent.take(kernel)
        point("restore.recorded")
        exchange.forget(self._agent.folder)

    # -- when it fails ------------------------------------------------------------

    def _undo(self, error: Exception) -> None:
        """End what was made, and let the old kernel live on or bring it back.

        Raises `RestoreFailed` in place of `error` where a state was to be brought back.
        """
        if self._old is not None and not self._is_stopped:
            with suppress(OSError):  # the next record says so, too
                self._agent.note(self._old, recover=None, replaced_by=None)
            return
        if self._made is not None:
            self._end(self._made)
        if self._old is not None and self._safety is not None:
            self._bring_back(self._old, self._safety, error)

    def _end(self, made: Kernel) -> None:
        """End a kernel that was restored and could not be made the agent's."""
        self._agent.let_go(made)
        recover = self._safety.id if self._safety is not None else self._recovered
        if recover is not None:  # should we die before the old state is back
            made.record.recover = recover
            made.record.replaced_by = self._asked_by or self._job.id
            with suppress(OSError):
                self._agent.record_file.write(made.record)
        try:
            made.box.stop(made.record.kernel)  # it runs, but nobody would know of it
        except (CheckpointError, OSError) as problem:
            log.error("%s", problem)  # a box to come ends it, or says why not
        exchange.undo(self._agent.folder)
        if recover is None:
            self._agent.record_file.remove()

    def _bring_back(self, old: Kernel, safety: Manifest, error: Exception) -> None:
        """Restore the state saved just before a restore that failed; then raise."""
        if not isinstance(error, CheckpointError):
            error = RestoreFailed(f"The restore failed unexpectedly ({error}).",
                                  "The agent.log in the kernel's runtime folder tells more.")
        again = self._restore(inheriting({"files": "put-back"}, old.record))
        try:
            with self._tools.work_folder(self._job.id, self._mark) as work:
                prepared = again.prepare(self._tools.store(), safety, work)
                self._take(again.run(prepared, safety.id, self._job.id), None)
        except AgentUnreachable:
            raise  # the agent that has our place brings it back
        except Exception as second:
            log.exception("bringing the state before the restore back failed")
            if self._agent.kernel is None:
                self._agent.offer_lost(old.record, safety.id, self._tools.store_dir, NOT_BACK)
                raise _not_back(error, safety, second) from error
            raise RestoreFailed(f"{error.message} The session is again as it was before the "
                                "attempt.", error.hint, error.log) from error
        told = " ".join(["The session is again as it was before the attempt.",
                         *prepared.plan.warnings])
        raise RestoreFailed(f"{error.message} {told}", error.hint, error.log) from error


def _not_back(error: CheckpointError, safety: Manifest, second: Exception) -> RestoreFailed:
    reason = second.message if isinstance(second, CheckpointError) else f"{second}."
    return RestoreFailed(
        f"{error.message} The session as it was before the attempt could not be brought back, "
        f"either: {reason}", f"It is saved: restore checkpoint {safety.id}.", error.log)
