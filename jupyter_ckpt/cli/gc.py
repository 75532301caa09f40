"""``jupyter ckpt gc``: free the disk space of removed checkpoints."""

from __future__ import annotations

from ..sizes import size
from .call import Call, verb


@verb("gc")
def gc(call: Call) -> None:
    """Free the disk space that no checkpoint needs any more.

    Safe while checkpoints are being saved.
    """
    from ..agent.tools import remove_abandoned

    found = call.store.collect()
    found["removed_bytes"] += remove_abandoned(call.store.root / "work")
    if call.screen.as_json:
        call.screen.document({"removed_chunks": found["removed_chunks"],
                              "removed_bytes": found["removed_bytes"]})
    elif found["removed_bytes"]:
        call.screen.done(f"Freed {size(found['removed_bytes'])} "
                         f"({found['removed_chunks']} chunks).")
    else:
        call.screen.done("Nothing to free: every chunk is in use.")
