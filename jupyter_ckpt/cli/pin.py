"""``jupyter ckpt pin`` and ``unpin``: keep a checkpoint whatever happens, or not."""

from __future__ import annotations

import click

from .call import Call, verb


@verb("pin")
@click.argument("checkpoint", metavar="ID")
def pin(call: Call, checkpoint: str) -> None:
    """Keep a checkpoint until you remove it yourself."""
    _set(call, checkpoint, True)


@verb("unpin")
@click.argument("checkpoint", metavar="ID")
def unpin(call: Call, checkpoint: str) -> None:
    """Undo `pin`: the checkpoint may be removed automatically again."""
    _set(call, checkpoint, False)


def _set(call: Call, checkpoint: str, pinned: bool) -> None:
    manifest = call.store.update(call.store.resolve(checkpoint).id, pinned=pinned)
    if call.screen.as_json:
        call.screen.document(manifest.to_dict())
    else:
        state = "is pinned" if pinned else "is no longer pinned"
        call.screen.done(f"Checkpoint {manifest.name or manifest.id[:8]} {state}.")
