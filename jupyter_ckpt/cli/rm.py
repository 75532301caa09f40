"""``jupyter ckpt rm``: remove checkpoints."""

from __future__ import annotations

import click

from .call import Call, verb


@verb("rm")
@click.argument("checkpoints", metavar="ID...", nargs=-1, required=True)
def rm(call: Call, checkpoints: tuple[str, ...]) -> None:
    """Remove checkpoints.

    All are looked up first: if one is not found, none is removed. Their disk
    space is freed by `jupyter ckpt gc`.
    """
    ids = list(dict.fromkeys(call.store.resolve_id(text) for text in checkpoints))
    for checkpoint_id in ids:
        call.store.remove(checkpoint_id)
    if call.screen.as_json:
        call.screen.document({"removed": ids})
        return
    call.screen.done(f"Removed {'1 checkpoint' if len(ids) == 1 else f'{len(ids)} checkpoints'}.")
    call.screen.next_step("Free the disk space", "jupyter ckpt gc")
