"""``jupyter ckpt save``: a checkpoint now."""

from __future__ import annotations

import shlex
import uuid
from typing import TYPE_CHECKING

import click

from ..errors import AgentUnreachable, CheckpointError, JobNotFound, KernelNotFound
from ..manifest import checked_name, checked_note
from ..sizes import size
from .call import Call, verb
from .places import spelled
from .units import span

if TYPE_CHECKING:
    from ..locations import Locations
    from ..manifest import Manifest
    from ..record import Record


@verb("save")
@click.argument("kernel", required=False)
@click.option("--name", metavar="N", help="A name to call the checkpoint by, beside its id.")
@click.option("--note", metavar="T", help="A remark to remember it by.")
@click.option("--pin", is_flag=True, help="Never remove it automatically.")
def save(call: Call, kernel: str | None, name: str | None, note: str | None, pin: bool) -> None:
    """Save a running session as a checkpoint.

    KERNEL may be left out when only one runs. The session goes on by itself
    as soon as its memory is copied, also in the middle of a cell. Prints the
    id of the checkpoint. Without --store it goes into the store that the
    kernel was started with.
    """
    if name is not None:
        # Looked at here too: a mistake in the name must not cost a long save.
        name = checked_name(name)
    checked_note(note)
    record = call.kernels.find_kernel(call.locations, kernel)
    places = call.locations_of(record)
    if name is not None:
        _check_free(places, name)
    request_id = uuid.uuid4().hex
    try:
        with call.screen.progress("Saving") as on_progress:
            manifest = call.kernels.save(
                places, record, name=name, note=note, pin=pin, trigger="manual",
                request_id=request_id, on_progress=on_progress)
    except KeyboardInterrupt:
        _withdraw(call, record, request_id)
        raise
    call.screen.did = f"Checkpoint {manifest.id} was saved"
    if call.screen.as_json:
        call.screen.document(manifest.to_dict())
        return
    call.screen.line(manifest.id)
    _describe(call, manifest, places)


def _describe(call: Call, manifest: Manifest, places: Locations) -> None:
    """Say what was saved, and the two things people want next."""
    screen = call.screen
    what = f"{size(manifest.memory_bytes)} of memory in {_count(len(manifest.processes))}"
    screen.done(f"Saved {what}: {size(manifest.stored_bytes)} new on disk, "
                f"paused {span(manifest.pause_s)}, took {span(manifest.duration_s)}.")
    screen.warn(manifest.warnings)
    elsewhere = call.store_dir is not None or places.store_dir != call.locations.store_dir
    store = f" --store {shlex.quote(str(places.store_dir))}" if elsewhere else ""
    screen.next_step("Go back to it", f"jupyter ckpt restore {spelled(manifest)}{store}")


def _check_free(places: Locations, name: str) -> None:
    """Raise `NameTaken` when a checkpoint is called `name`; makes no store."""
    from ..store import Store

    if places.store_dir.exists():
        Store.open(places.store_dir).check_name_free(name)


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _withdraw(call: Call, record: Record, request_id: str) -> None:
    """Ask the agent to drop a save that has not begun; say how it stands."""
    try:
        job = call.kernels.live_agent(call.locations, record).cancel("checkpoints", request_id)
        dropped = job.finished and job.result is None
    except (JobNotFound, KernelNotFound):
        dropped = True
    except AgentUnreachable as error:
        call.screen.say(f"Whether the save goes on is not known: {error.message}")
        return
    except CheckpointError:
        # The agent refuses to cancel what has begun.
        dropped = False
    call.screen.say(
        "Nothing was saved; the kernel goes on." if dropped else
        "The save had begun and ends by itself; 'jupyter ckpt list' will show it.")
