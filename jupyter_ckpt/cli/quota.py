"""``jupyter ckpt quota``: how much the checkpoint store may hold."""

from __future__ import annotations

import re

import click

from ..sizes import OFF, parse_size, size
from .call import Call, verb


@verb("quota")
@click.argument("limit", metavar="[SIZE|off]", required=False)
def quota(call: Call, limit: str | None) -> None:
    """Limit what the checkpoint store may hold, or show it.

    SIZE is like 500M, 20G or 1.5T; 'off' takes the limit away. It belongs to
    the store, so all sessions keep to it. When a save makes the store larger,
    the oldest automatic checkpoints are removed, of any notebook: never one
    that has a name, is pinned or was made by hand, and never the last good one
    of a notebook. Set alone it removes nothing: the next save does.
    """
    if limit is not None and re.match(r"-(?!\.?\d)", limit):
        raise click.NoSuchOption(limit, ctx=click.get_current_context())
    store = call.store
    if limit is not None:
        store.set_quota(None if limit.strip().lower() == OFF else parse_size(limit))
    found, used = store.quota_bytes(), store.usage_bytes(exact=True)
    if call.screen.as_json:
        call.screen.document({"quota_bytes": found, "used_bytes": used})
    elif found is None:
        call.screen.line(f"No quota. The store holds {size(used)}.")
    else:
        call.screen.line(f"The store holds {size(used)} of at most {size(found)}.")


# So that a mistake like -5G is told of as a size.
quota.context_settings["ignore_unknown_options"] = True
