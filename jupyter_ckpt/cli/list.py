"""``jupyter ckpt list``: the checkpoints, newest first."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from ..errors import (
    AmbiguousId,
    CheckpointError,
    KernelNotFound,
    NotFound,
    NotOurKernel,
    RecordCorrupt,
)
from ..sizes import size
from .call import Call, verb
from .output import plain_table, short_text
from .places import shown_path
from .units import age, span

if TYPE_CHECKING:
    from ..manifest import Manifest

_CONNECTION_FILE = re.compile(r"kernel-([A-Za-z0-9_-]+)\.json")
_SHORT_ID = 8


@verb("list")
@click.argument("kernel", required=False)
def list_checkpoints(call: Call, kernel: str | None) -> None:
    """List checkpoints, newest first.

    With KERNEL only those of this kernel or notebook, whether it still runs
    or not. Several kernels may have the notebook.
    """
    manifests = call.store.manifests()
    problems = call.store.problems()
    if kernel is not None:
        manifests = _of_kernel(call, manifests, kernel)
    if call.screen.as_json:
        call.screen.document([manifest.to_dict() for manifest in manifests])
        return
    if manifests:
        _print(call, manifests)
    else:
        call.screen.say("There are no checkpoints" + (" of this kernel." if kernel else "."))
        call.screen.next_step("Make one", "jupyter ckpt save")
    call.screen.warn([f"Checkpoint {problem['id']} cannot be used: {problem['reason']}"
                      for problem in problems])


def _of_kernel(call: Call, manifests: list[Manifest], text: str) -> list[Manifest]:
    """Return the checkpoints of the kernel or notebook `text` names, dead or alive.

    Raises `KernelNotFound` when neither a checkpoint nor a living kernel
    answers to it, `RecordCorrupt` when no checkpoint does and the kernel's
    record cannot be read, `AmbiguousId` when it fits several kernels and is
    not the notebook of a checkpoint, and `UsageError` for a relative path in a
    folder that was removed.
    """
    from ..kernel_lookup import SHORTEST_PREFIX, checked_kernel_reference, paths_meant

    checked_kernel_reference(text)
    notebooks = paths_meant(text)
    file_name = _CONNECTION_FILE.fullmatch(os.path.basename(text))
    prefix = file_name.group(1) if file_name else text
    problem: CheckpointError | None = None
    kernel_ids: set[str] = set()
    try:
        record = call.kernels.find_kernel(call.locations, text)
        kernel_ids.add(record.kernel_id)
        if record.notebook:
            notebooks.add(os.path.realpath(record.notebook))
    except AmbiguousId as error:
        problem, prefix = error, ""  # kernels may share a notebook, but not an id
    except (NotFound, NotOurKernel, RecordCorrupt) as error:
        problem = error
    found = [m for m in manifests if _kernel_id(m) in kernel_ids
             or (len(prefix) >= SHORTEST_PREFIX and _kernel_id(m).startswith(prefix))
             or (m.notebook and os.path.realpath(str(m.notebook.get("path"))) in notebooks)]
    if not found and problem is not None:
        if isinstance(problem, RecordCorrupt) or len(prefix) < SHORTEST_PREFIX:
            raise problem
        raise KernelNotFound(f"No kernel and no checkpoint belongs to {text!r}.",
                             "'jupyter ckpt list' shows all checkpoints, "
                             "'jupyter ckpt ps' the kernels.")
    return found


def _kernel_id(manifest: Manifest) -> str:
    return str(manifest.kernel.get("id", ""))


def short_ids(ids: list[str]) -> dict[str, str]:
    """Return the shortest unambiguous beginnings of `ids`, 8 digits or more."""
    length = _SHORT_ID
    while len({full[:length] for full in ids}) < len(set(ids)):
        length += 1
    return {full: full[:length] for full in ids}


def _print(call: Call, manifests: list[Manifest]) -> None:
    from rich.text import Text

    short = short_ids([manifest.id for manifest in call.store.manifests()])
    table = plain_table("ID", "NAME", "SAVED", "NOTEBOOK", ">MEMORY", ">STORED", ">PAUSE", "NOTE")
    for m in manifests:
        name = short_text(m.name or "", "bold")
        if m.pinned:
            name.append(" (pinned)" if m.name else "(pinned)", "dim")
        where = shown_path(m.notebook["path"]) if m.notebook else f"kernel {_kernel_id(m)[:8]}"
        table.add_row(Text(short[m.id], "cyan"), name, age(m.created_at), short_text(where),
                      size(m.memory_bytes), size(m.stored_bytes), span(m.pause_s),
                      short_text(m.note or ""))
    call.screen.table(table)


