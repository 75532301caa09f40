"""What people do with kernels and checkpoints, the same for CLI and server.

Blocking functions over agents, records and the store; nothing is kept between
calls.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .agent_place import remove_stale
from .client import AgentClient, OnProgress, start_agent
from .delivery import TRIES, deliver, take_back
from .errors import (
    AgentUnreachable,
    CheckpointError,
    DumpFailed,
    KernelNotFound,
    LaunchFailed,
    ModeUnavailable,
    RestoreFailed,
    StoreUnusable,
    UsageError,
)
from .kernel_lookup import find_kernel
from .locations import Locations
from .manifest import Manifest, check_same_kernel
from .offers import withdraw
from .plan import Schedule
from .procfs import descendants, own_umask, rss_bytes
from .record import Record, all_records, read_record
from .store import Store

__all__ = [
    "find_kernel", "finish_unfinished", "fork", "launch", "list_kernels", "live_agent",
    "living_records", "new_kernel_id", "restore", "save", "schedule", "stop",
    "take_back",
]
log = logging.getLogger(__name__)
RECOVERY_DEADLINE_S = 600.0
"""How long is waited for kernels that new agents bring back; they go on with it."""
LISTING_DEADLINE_S = 30.0
"""The same where somebody only wants to know which kernels there are."""


def new_kernel_id() -> str:
    return str(uuid.uuid4())


def living_records(locations: Locations) -> list[Record]:
    """Return the records of kernels that run now."""
    return [r for r in all_records(locations.runtime_dir)[0] if r.is_alive()]


def finish_unfinished(locations: Locations, wait_s: float = RECOVERY_DEADLINE_S) -> None:
    """Start agents where one died while starting or replacing a kernel.

    Each ends what is left of its box and brings back what was stopped. That is
    waited for, `wait_s` seconds for all together; what takes longer goes on. What
    agents left that died before they had a kernel is removed. What goes wrong is logged.
    """
    deadline = time.monotonic() + wait_s
    try:
        remove_stale(locations.runtime_dir)
    except OSError as error:
        log.warning("What dead agents have left cannot be removed: %s", error)
    # All at once: the store of one may hang.
    started = [(record, agent) for record in all_records(locations.runtime_dir)[0]
               if record.is_unfinished() and not (record.agent and record.agent.is_alive())
               and (agent := _begin_recovery(locations, record)) is not None]
    for record, agent in started:
        with _telling(record):
            agent.wait("restores", f"recover-{record.recover}",
                       timeout_s=max(0.0, deadline - time.monotonic()))


def _begin_recovery(locations: Locations, record: Record) -> AgentClient | None:
    """Start the agent of an unfinished kernel; return it if it brings something back."""
    with _telling(record):
        agent = start_agent(locations, record.kernel_id)
        if record.recover is not None:
            return agent
        _dismiss(agent)
    return None


@contextmanager
def _telling(record: Record) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, OSError) as error:
        log.warning("Kernel %s is not brought back: %s Its checkpoint is %s.",
                    record.kernel_id, error, record.recover)


def list_kernels(locations: Locations) -> list[dict[str, Any]]:
    """Describe every living kernel, as ``jupyter ckpt ps`` prints it."""
    finish_unfinished(locations, LISTING_DEADLINE_S)
    last = _last_checkpoints(locations)
    return [_row(locations, record, last.get(record.kernel_id))
            for record in living_records(locations)]


def _last_checkpoints(locations: Locations) -> dict[str, str]:
    """Return {kernel id: id of its newest checkpoint}; empty without a usable store."""
    try:
        manifests = Store.open(locations.store_dir, create=False).manifests()
    except StoreUnusable:
        return {}  # kernels are shown all the same; whoever saves is told
    return {str(m.kernel.get("id")): m.id for m in reversed(manifests)}


def _row(locations: Locations, record: Record, last: str | None) -> dict[str, Any]:
    assert record.kernel is not None and record.root is not None
    try:
        state = live_agent(locations, record).status(timeout_s=5)["state"]
    except AgentUnreachable:
        state = "no agent"
    tree = descendants(record.root.pid)[1:]
    return {"kernel_id": record.kernel_id, "name": record.kernel_name,
            "notebook": record.notebook, "pid": record.kernel.pid, "state": state,
            "memory_bytes": sum(rss_bytes(pid) for pid in tree), "mode": record.mode,
            "last_checkpoint": last}


def schedule(
    locations: Locations, record: Record, changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return when a kernel is saved by itself, after `changes` if there are any.

    ``{kernel_id, every_s, cells, keep, keep_hourly, keep_daily, next_due_s,
    last_automatic}``. Raises `UsageError` for changes that make no sense;
    nothing is changed then.
    """
    return live_agent(locations, record).schedule(changes)


def live_agent(locations: Locations, record: Record) -> AgentClient:
    """Return the agent of a living kernel, a new one when the old is gone."""
    return start_agent(locations, record.kernel_id)


def launch(
    locations: Locations, *, kernel_id: str, kernel_name: str, cmd: Sequence[str],
    env: Mapping[str, str], cwd: str, connection_file: str, language: str,
    notebook: str | None = None, session: dict[str, Any] | None = None,
    owner: dict[str, Any] | None = None, schedule: Schedule | None = None,
    request_id: str | None = None,
) -> Record:
    """Start a kernel in a box with an agent; return its record.

    Raises `LaunchFailed`, `ModeUnavailable` or `AgentUnreachable`; then
    nothing of the kernel runs.
    """
    body = {"kernel_name": kernel_name, "cmd": list(cmd), "env": dict(env), "cwd": cwd,
            "connection_file": connection_file, "language": language, "notebook": notebook,
            "session": session, "owner": owner, "umask": own_umask(),
            "schedule": schedule.to_dict() if schedule else None}
    try:
        return Record.from_dict(deliver(
            lambda: start_agent(locations, kernel_id), "launches", body, request_id=request_id))
    except CheckpointError:
        _dismiss(AgentClient(locations.folder(kernel_id)))
        raise


def save(
    locations: Locations, record: Record, *, name: str | None = None, note: str | None = None,
    pin: bool = False, trigger: str = "manual", request_id: str | None = None,
    document: dict[str, Any] | None = None, on_progress: OnProgress | None = None,
    purpose: str | None = None,
) -> Manifest:
    """Save a checkpoint of a kernel. Raises `DumpFailed` and its kinds.

    Should its agent die meanwhile, new ones are asked under the same
    `request_id`: there is one checkpoint in the end, never two.
    """
    body = {"name": name, "note": note, "pin": pin, "trigger": trigger, "document": document,
            "purpose": purpose, "store": str(locations.store_dir)}
    try:
        return Manifest.from_dict(deliver(
            lambda: live_agent(locations, record), "checkpoints", body, on_progress, request_id))
    except AgentUnreachable as error:
        _dismiss(AgentClient(locations.folder(record.kernel_id)))
        raise DumpFailed(
            f"{TRIES} agents of kernel {record.kernel_id} in turn could not save it: "
            f"{error.message}",
            "The kernel goes on. 'jupyter ckpt list' shows whether the checkpoint was finished."
        ) from error
    except KernelNotFound:
        _dismiss(AgentClient(locations.folder(record.kernel_id)))
        raise


def restore(
    locations: Locations, manifest: Manifest, *, kernel_id: str, in_place: bool = False,
    files: str | None = None, connection: dict[str, Any] | None = None,
    connection_file: str | None = None, notebook: str | None = None,
    session: dict[str, Any] | None = None, owner: dict[str, Any] | None = None,
    wait_s: float | None = None, shared: bool | None = None,
    on_progress: OnProgress | None = None, request_id: str | None = None,
) -> dict[str, Any]:
    """Restore a checkpoint as kernel `kernel_id`.

    With `in_place` a living kernel of that id is saved and replaced; without,
    there must be none. Raises `RestoreRefused` (nothing touched),
    `RestoreFailed` (what was there is there again) or `IntegrityError`.
    """
    record = _living(locations, kernel_id)
    if record is not None and not in_place:
        raise UsageError(f"Kernel {kernel_id} is running.", "Restore in place, or as a new kernel.")
    if record is not None:
        check_same_kernel(manifest, record.kernel_name)
    if shared is None:
        shared = any(r.kernel_id == manifest.kernel.get("id") for r in living_records(locations)
                     if r.kernel_id != kernel_id)
    _check_pids_free(manifest, locations, kernel_id)
    body = {"checkpoint": manifest.id, "files": files, "connection": connection,
            "connection_file": connection_file or (
                record.connection_file if record else str(locations.connection_file(kernel_id))),
            "notebook": notebook, "session": session, "owner": owner, "wait_s": wait_s,
            "shared": shared, "store": str(locations.store_dir), "in_place": in_place}
    try:
        found = deliver(lambda: start_agent(locations, kernel_id), "restores", body,
                        on_progress, request_id)
        withdraw(locations.runtime_dir, manifest)
        return found
    except AgentUnreachable as error:
        raise RestoreFailed(
            f"{TRIES} agents of kernel {kernel_id} in turn could not restore it: {error.message}",
            "'jupyter ckpt ps' brings back a kernel that was being replaced; then restore again."
        ) from error
    except CheckpointError:
        if record is None:
            _dismiss(AgentClient(locations.folder(kernel_id)))
        raise


def _living(locations: Locations, kernel_id: str) -> Record | None:
    try:
        record = read_record(locations.folder(kernel_id))
    except KernelNotFound:
        return None
    return record if record.is_alive() else None


def _check_pids_free(manifest: Manifest, locations: Locations, kernel_id: str) -> None:
    """Without pid namespaces the original and its copy cannot live together."""
    if manifest.mode != "caps":
        return
    original = str(manifest.kernel.get("id"))
    if original != kernel_id and _living(locations, original) is not None:
        raise ModeUnavailable(
            "The original kernel still runs, and in caps mode its copy needs the same process ids.",
            "Restore it in place, or stop the original first.")


def _dismiss(agent: AgentClient) -> None:
    """Let an agent that has no kernel end now and not only after its minute."""
    try:
        agent.request("POST", "/dismiss")
    except CheckpointError:
        return  # it ends by itself


def fork(
    locations: Locations, record: Record, n: int = 1, on_progress: OnProgress | None = None,
    on_request: Callable[[str, str, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Make `n` independent copies of a running kernel.

    Returns [{kernel_id, connection_file, warnings}]. The notebook stays the
    original's: a copy has none until somebody gives it one. When one copy fails,
    or the caller is interrupted, the ones made before it are stopped again.
    `on_request` hears of each request before it is made: kernel id, kind, id.
    """
    if n < 1:
        raise UsageError("The number of copies is at least 1.")
    if record.mode == "caps":
        raise ModeUnavailable("A kernel cannot be forked in caps mode: copies need the same pids.",
                              "Root or rootless mode can: see 'jupyter ckpt doctor'.")

    def announced(kernel_id: str, kind: str) -> str:
        request_id = uuid.uuid4().hex
        if on_request is not None:
            on_request(kernel_id, kind, request_id)
        return request_id

    manifest = save(locations, record, trigger="api", note="for fork", purpose="fork",
                    on_progress=on_progress,
                    request_id=announced(record.kernel_id, "checkpoints"))
    copies: list[dict[str, Any]] = []
    try:
        for _ in range(n):
            kernel_id = new_kernel_id()
            done = restore(locations, manifest, kernel_id=kernel_id, shared=True,
                           on_progress=on_progress,
                           request_id=announced(kernel_id, "restores"))
            copies.append({name: done[name] for name in
                           ("kernel_id", "connection_file", "warnings")})
    except BaseException:
        for copy in copies:
            _stop_unseen(locations, copy["kernel_id"])
        raise
    return copies


def _stop_unseen(locations: Locations, kernel_id: str) -> None:
    """End a kernel that nobody was told of; one that does not end keeps none of the others."""
    try:
        stop(locations, read_record(locations.folder(kernel_id)))
    except CheckpointError as error:
        log.error("Kernel %s runs on: %s", kernel_id, error.message)


def stop(locations: Locations, record: Record) -> None:
    """End a kernel with everything in its box; returns when it is gone."""
    if not record.is_alive():
        return  # its agent ends by itself; a new one would be started just to end it
    try:
        live_agent(locations, record).shutdown()
    except KernelNotFound:
        return  # it ended in between
    if record.is_alive():
        raise LaunchFailed(f"Kernel {record.kernel_id} did not end.")
