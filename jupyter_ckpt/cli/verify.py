"""``jupyter ckpt verify``: read checkpoints back and check every byte."""

from __future__ import annotations

import click

from ..errors import IntegrityError
from .call import Call, verb


@verb("verify")
@click.argument("checkpoints", metavar="[ID]...", nargs=-1)
def verify(call: Call, checkpoints: tuple[str, ...]) -> None:
    """Check that checkpoints are whole: every signature, every byte.

    All of them when no ID is given. Exits with 7 when one is damaged.
    """
    ids = list(dict.fromkeys(call.store.resolve_id(text) for text in checkpoints))
    found = call.store.verify(ids or None)
    if call.screen.as_json:
        call.screen.document(found)
    else:
        _describe(call, found["checked"], found["bad"])
    if found["bad"]:
        click.get_current_context().exit(IntegrityError.exit_code)


def _describe(call: Call, checked: int, bad: list[dict[str, str]]) -> None:
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
    call.screen.next_step("Remove what cannot be used", "jupyter ckpt rm ID")
