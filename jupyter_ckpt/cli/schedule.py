"""``jupyter ckpt schedule``: checkpoints that come by themselves."""

from __future__ import annotations

from typing import Any

import click

from ..plan import MAX_CELLS, MAX_KEEP, read_changes, sentence
from .call import Call, verb
from .units import age, span


@verb("schedule")
@click.argument("kernel")
@click.option("--every", metavar="SPAN",
              help="Save this often: 30s, 10m, 2h. An idle session is not saved again.")
@click.option("--cells", type=click.IntRange(1, MAX_CELLS), metavar="N",
              help="Save after every N cells.")
@click.option("--keep", type=click.IntRange(1, MAX_KEEP), metavar="N",
              help="How many automatic checkpoints stay (5, unless said otherwise); older ones "
                   "are removed, but never one that has a name, is pinned or was made by hand.")
@click.option("--keep-hourly", type=click.IntRange(0, MAX_KEEP), metavar="N",
              help="Keep besides the newest of each of the last N hours that have one.")
@click.option("--keep-daily", type=click.IntRange(0, MAX_KEEP), metavar="N",
              help="Keep besides the newest of each of the last N days that have one.")
@click.option("--off", is_flag=True, help="No automatic checkpoints any more.")
def schedule(
    call: Call, kernel: str, every: str | None, cells: int | None, keep: int | None,
    keep_hourly: int | None, keep_daily: int | None, off: bool,
) -> None:
    """Save a session by itself, by time or by cells.

    Without options it shows the schedule. What is left out stays as it is. The
    schedule belongs to the session: it outlives servers and comes back with a
    restore.
    """
    given = {"every": every, "cells": cells, "keep": keep, "keep_hourly": keep_hourly,
             "keep_daily": keep_daily, "off": off or None}
    changes = {name: value for name, value in given.items() if value is not None}
    wanted = read_changes(changes) if changes else None
    record = call.kernels.find_kernel(call.locations, kernel)
    found = call.kernels.schedule(call.locations, record, wanted)
    if call.screen.as_json:
        call.screen.document(found)
        return
    call.screen.line(sentence(found))
    _tell_next(call, found)


def _tell_next(call: Call, found: dict[str, Any]) -> None:
    """Tell when the next save is due, how the last went, and what went wrong."""
    if found.get("next_due_s") is not None:
        call.screen.say(f"Due in {span(float(found['next_due_s']))}, if the session went on.")
    last = found.get("last_automatic")
    if not last:
        return
    if last.get("error"):
        call.screen.warn([f"The last automatic checkpoint, {age(str(last['at']))}, failed: "
                          f"{last['error'].get('message', '')}"])
    else:
        call.screen.say(f"The last one: {str(last['id'])[:8]}, {age(str(last['at']))}.")
