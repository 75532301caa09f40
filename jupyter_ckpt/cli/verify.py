"""``jupyter ckpt verify``: read checkpoints back and check every byte."""

from __future__ import annotations

import click

from ..errors import IntegrityError, NotFound
from .call import Call, verb


@verb("verify")
@click.argument("checkpoints", metavar="[ID]...", nargs=-1)
def verify(call: Call, checkpoints: tuple[str, ...]) -> None:
    """Check that checkpoints are whole: every signature, every byte.

    All of them when no ID is given. Exits with 7 when one is damaged. The
    next save of a session that still holds what is damaged writes it anew.
    """
    ids = list(dict.fromkeys(call.store.resolve_id(text) for text in checkpoints))
    found = call.store.verify(ids or None)
    noted = sum(_note_damage(call, entry["id"]) for entry in found["bad"])
    if call.screen.as_json:
        call.screen.document(found)
    else:
        _describe(call, found["checked"], found["bad"], noted)
    if found["bad"]:
        click.get_current_context().exit(IntegrityError.exit_code)


def _note_damage(call: Call, checkpoint_id: str) -> int:
    """Let the next save write anew what is damaged; return how many parts that are."""
    try:
        return call.store.note_damage(checkpoint_id)
    except (IntegrityError, NotFound):
        return 0  # its manifest names nothing that can be believed, or it was removed


def _describe(call: Call, checked: int, bad: list[dict[str, str]], noted: int) -> None:
    from rich.text import Text

    from .output import plain_table

    count = "1 checkpoint" if checked == 1 else f"{checked} checkpoints"
    if not bad:
        call.screen.done(f"Checked {count}: all whole.")
        return
    table = plain_table("DAMAGED", "REASON")
    for entry in bad:
        table.add_row(Text(entry["id"], "red"), Text(entry["reason"]))
    call.screen.table(table)
    call.screen.say(f"Checked {count}: {len(bad)} damaged.", "bold red")
    if noted:
        call.screen.say("A session that still holds the damaged bytes writes them anew when it is "
                        "saved, which mends every checkpoint that needs them.")
        call.screen.next_step("Save what runs, then check again",
                              "jupyter ckpt save; jupyter ckpt verify")
    call.screen.next_step("Remove what cannot be used", "jupyter ckpt rm ID")
