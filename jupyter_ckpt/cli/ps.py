"""``jupyter ckpt ps``: the kernels that can be saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..record import all_records
from ..sizes import size
from .call import Call, verb
from .output import plain_table, short_text
from .places import shown_path
from .units import age, span

if TYPE_CHECKING:  # costs the store, and with it every verb's help
    from ..offers import Offer

STATES = {
    "running": "nothing is being done with the session",
    "saving": "a checkpoint is being made, and the session goes on",
    "frozen": "a checkpoint is being made, and the session stands still: its memory is copied",
    "restoring": "the session is being replaced by a checkpoint, or brought back",
    "no agent": "no agent answers and none could be started; the session goes on, but cannot "
                "be saved: `agent.log` in its runtime folder says why",
}
"""What ``state`` can be, and what it means."""
_STATE_STYLES = {"running": "green", "no agent": "red"}


@verb("ps")
def ps(call: Call) -> None:
    """List the running kernels that can be saved."""
    from ..offers import all_offers
    from ..stale import sweep

    kernels = call.kernels.list_kernels(call.locations)
    sweep(call.locations)
    if call.screen.as_json:
        call.screen.document(kernels)
        return
    if kernels:
        _print(call, kernels)
    else:
        call.screen.say("No checkpointable kernel is running.")
        call.screen.next_step("Start one", "jupyter ckpt start")
    _, problems = all_records(call.locations.runtime_dir)
    call.screen.warn(problems)
    for offer in all_offers(call.locations.runtime_dir):
        if offer.checkpoint is not None:
            _print_offer(call, offer)


def _print_offer(call: Call, offer: Offer) -> None:
    """Tell of a session that ended unplanned, on standard error: it is no kernel."""
    what = shown_path(offer.notebook) if offer.notebook else f"kernel {offer.kernel_id[:8]}"
    call.screen.say(f"{what} ended {age(offer.ended_at)} ({offer.how}); its last checkpoint is "
                    f"of {span(_older_s(offer))} before.")
    call.screen.next_step("Bring it back", f"jupyter ckpt restore {offer.checkpoint}")


def _older_s(offer: Offer) -> float:
    from ..offers import seconds_of

    return max(0.0, seconds_of(offer.ended_at) - seconds_of(str(offer.checkpoint_created_at)))


def _print(call: Call, kernels: list[dict[str, Any]]) -> None:
    from rich.text import Text

    table = plain_table("KERNEL", "NAME", "NOTEBOOK", ">PID", "STATE", ">MEMORY", "MODE",
                        "LAST CHECKPOINT")
    for kernel in kernels:
        state = str(kernel.get("state") or "")
        table.add_row(
            Text(str(kernel["kernel_id"])[:8], "cyan"),
            short_text(str(kernel.get("name") or "")),
            short_text(shown_path(kernel.get("notebook"))), str(kernel.get("pid") or ""),
            Text(state, _STATE_STYLES.get(state, "yellow")), size(kernel.get("memory_bytes") or 0),
            Text(str(kernel.get("mode") or "")), _last(kernel.get("last_checkpoint")))
    call.screen.table(table)


def _last(checkpoint: Any) -> str:
    if isinstance(checkpoint, dict):
        return f"{str(checkpoint.get('id', ''))[:8]}  {age(str(checkpoint.get('created_at', '')))}"
    return str(checkpoint)[:8] if checkpoint else "-"
