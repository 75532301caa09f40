"""``jupyter ckpt rename``: call a checkpoint by another name."""

from __future__ import annotations

import click

from ..manifest import checked_name
from .call import Call, verb


@verb("rename")
@click.argument("checkpoint", metavar="ID")
@click.argument("name")
def rename(call: Call, checkpoint: str, name: str) -> None:
    """Give a checkpoint a name, or another one.

    The name can stand wherever an id can.
    """
    wanted = checked_name(name)
    manifest = call.store.update(call.store.resolve(checkpoint).id, name=wanted)
    if call.screen.as_json:
        call.screen.document(manifest.to_dict())
    else:
        call.screen.done(f"Checkpoint {manifest.id[:8]} is now called {wanted!r}.")
