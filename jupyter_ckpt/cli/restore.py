"""``jupyter ckpt restore``: a session as it was."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    CheckpointNotFound,
    NotFound,
    NotOurKernel,
    NotPossibleHere,
    SignatureInvalid,
    UsageError,
)
from ..protocol import MAX_WAIT_S, checked_wait_s
from .call import Call, verb
from .copies import NotebookCopy, bring_back
from .interrupts import asking_a_server, still_goes_on
from .owners import owner_of, server_for
from .places import shown_path, spelled
from .units import talk_to

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..record import Record
    from .servers import RunningServer

_SERVER_TIMEOUT_S = 1800.0
"""How long a server may take to restore; a checkpoint can be many GB."""


@verb("restore")
@click.argument("checkpoint", metavar="ID")
@click.option("--in-place", is_flag=True,
              help="Replace the running kernel, which is saved first (the default).")
@click.option("--new", is_flag=True,
              help="Leave the running kernel alone: a new kernel, with a copy of the notebook.")
@click.option("--files", type=click.Choice(["put-back", "keep", "abort"]), default="put-back",
              show_default=True,
              help="For files the session had open and that changed since: put the saved ones "
                   "back (the present ones are kept beside them), keep the present ones, or stop.")
@click.option("--no-server", is_flag=True,
              help="Restore without a Jupyter server, even if one owns the notebook.")
@click.option("--trust-foreign-signature", "trust", is_flag=True,
              help="Restore a checkpoint that somebody else signed. Its code then runs with all "
                   "your rights: only for one that you were given by somebody you trust.")
@click.option("--wait", "wait_s", type=click.FloatRange(0, MAX_WAIT_S), metavar="S",
              help="Seconds to wait for ports of the session that the system still holds, as it "
                   "does for a minute after their use; 0: no waiting (default: 70, at most "
                   f"{MAX_WAIT_S}).")
def restore(call: Call, checkpoint: str, in_place: bool, new: bool, files: str, no_server: bool,
            trust: bool, wait_s: float | None) -> None:
    """Bring a session back as it was.

    The kernel keeps its id and its notebook. If it still runs, its present
    state is saved and then replaced; otherwise it starts again from the
    checkpoint. A cell that was running goes on.

    Goes through the Jupyter server that owns the notebook, if one runs.
    Prints the kernel id and the connection file.
    """
    checked_wait_s(wait_s)  # to click, NaN is in every range
    if in_place and new:
        raise UsageError("--in-place and --new exclude each other.")
    manifest = _trusted(call, checkpoint) if trust else call.store.resolve(checkpoint)
    living = None if new else _living(call, manifest)
    server = None if no_server else _server(call, manifest, living)
    if server is not None:
        result = _through(call, server, manifest, new, files, wait_s)
    else:
        result = _headless(call, manifest, new, living, files, wait_s)
    _answer(call, manifest, result)


def _trusted(call: Call, checkpoint: str) -> Manifest:
    """Return the checkpoint, made one's own if another key signed it.

    Its chunks are proven and its manifest is signed anew: from then on it is
    as good as one's own, for the server, too.
    """
    checkpoint_id = call.store.resolve_id(checkpoint)
    try:
        return call.store.resolve(checkpoint_id)
    except SignatureInvalid:
        manifest = call.store.adopt(checkpoint_id)
    call.screen.warn([
        f"Checkpoint {checkpoint_id} was signed by somebody else and is signed by you now: "
        "what runs in it has all your rights."])
    return manifest


def _living(call: Call, manifest: Manifest) -> Record | None:
    """Return the record of the checkpoint's kernel if that kernel runs now.

    Raises `RecordCorrupt` when that cannot be told.
    """
    try:
        record = call.kernels.find_kernel(call.locations, str(manifest.kernel.get("id")))
    except (NotFound, NotOurKernel):
        # Its connection file may still lie there, without a kernel.
        return None
    return record if record.is_alive() else None


def _server(call: Call, manifest: Manifest, living: Record | None) -> RunningServer | None:
    """Return the server to go through, None for a restore without one."""
    if living is not None:
        server = owner_of(call, living)
        if server is not None:
            server.check()
        return server
    return server_for(call, _notebook(manifest), str(manifest.kernel.get("id")))


def _notebook(manifest: Manifest) -> str | None:
    return str(manifest.notebook["path"]) if manifest.notebook else None


def _through(call: Call, server: RunningServer, manifest: Manifest, new: bool, files: str,
             wait_s: float | None) -> dict[str, Any]:
    body: dict[str, Any] = {"mode": "new" if new else "in-place", "files": files}
    if wait_s is not None:
        body["wait_s"] = wait_s
    with call.screen.progress(f"Restoring through {server.url}"), asking_a_server(call):
        try:
            found = server.act(f"checkpoints/{manifest.id}/restore", body,
                               _SERVER_TIMEOUT_S + (wait_s or 0))
        except CheckpointNotFound as error:
            raise NotPossibleHere(
                f"The Jupyter server at {server.url} uses another store, without checkpoint "
                f"{manifest.id}.", "Give the server the same store, or use --no-server.") from error
    document = found.get("notebook")
    if document and os.path.exists(path := os.path.join(server.root_dir, document)):
        document = path
    return {**found, "notebook": document, "server_url": server.url}


def _headless(call: Call, manifest: Manifest, new: bool, living: Record | None, files: str,
              wait_s: float | None) -> dict[str, Any]:
    from ..parking import unmark

    request_id = uuid.uuid4().hex
    if not new:
        kernel_id = str(manifest.kernel["id"])
        with call.screen.progress("Restoring") as on_progress:
            try:
                found = call.kernels.restore(
                    call.locations, manifest, kernel_id=kernel_id, in_place=living is not None,
                    files=files, notebook=_notebook(manifest), on_progress=on_progress,
                    wait_s=wait_s, request_id=request_id)
            except KeyboardInterrupt:
                still_goes_on(call, kernel_id, "restores", request_id)
                raise
        if manifest.parked:  # it is back: opening its notebook starts no second one
            unmark(call.locations, manifest.id)
        told = bring_back(call.store, manifest, _notebook(manifest))
        return {**found, "warnings": [*told, *(found.get("warnings") or ())]}
    kernel_id = str(uuid.uuid4())
    # A second kernel does not take the notebook over from the first.
    with call.screen.progress("Restoring") as on_progress, NotebookCopy(
            call.store, manifest, _notebook(manifest)) as copy:
        try:
            found = call.kernels.restore(
                call.locations, manifest, kernel_id=kernel_id, in_place=False, files=files,
                notebook=copy.path, on_progress=on_progress, wait_s=wait_s, request_id=request_id)
        except KeyboardInterrupt:
            if still_goes_on(call, kernel_id, "restores", request_id):
                copy.keep()
            raise
        return {**found, "warnings": [*copy.warnings, *(found.get("warnings") or ())]}


def _answer(call: Call, manifest: Manifest, found: dict[str, Any]) -> None:
    names = ("kernel_id", "connection_file", "server_url", "notebook")
    warnings = [str(text) for text in found.get("warnings") or ()]
    result: dict[str, Any] = {name: found.get(name) for name in names}
    result["warnings"] = warnings
    call.screen.did = f"Checkpoint {manifest.id} was restored as kernel {result['kernel_id']}"
    if call.screen.as_json:
        call.screen.document(result)
        return
    call.screen.line(f"{result['kernel_id']}  {result['connection_file']}")
    where = f" in the server at {result['server_url']}" if result["server_url"] else ""
    call.screen.done(f"Restored {spelled(manifest)}{where}: the session goes on where it was.")
    call.screen.warn(warnings)
    if result["notebook"]:
        call.screen.next_step("Its notebook", shown_path(result["notebook"]))
    if not result["server_url"]:
        call.screen.next_step(
            "Talk to it", talk_to(result["connection_file"]))
