"""``jupyter ckpt ps``: the kernels that can be saved."""

from __future__ import annotations

from typing import Any

from ..record import all_records
from .call import Call, verb
from .output import plain_table
from .places import shown_path
from .units import age, size

_STATE_STYLES = {"running": "green", "frozen": "yellow", "dead": "red"}


@verb("ps")
def ps(call: Call) -> None:
    """List the running kernels that can be saved."""
    kernels = call.kernels.list_kernels(call.locations)
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


def _print(call: Call, kernels: list[dict[str, Any]]) -> None:
    from rich.text import Text

    table = plain_table("KERNEL", "NAME", "NOTEBOOK", ">PID", "STATE", ">MEMORY", "MODE",
                        "LAST CHECKPOINT")
    for kernel in kernels:
        state = str(kernel.get("state") or "")
        table.add_row(
            Text(str(kernel["kernel_id"])[:8], "cyan"), Text(str(kernel.get("name") or "")),
            Text(shown_path(kernel.get("notebook"))), str(kernel.get("pid") or ""),
            Text(state, _STATE_STYLES.get(state, "")), size(kernel.get("memory_bytes") or 0),
            Text(str(kernel.get("mode") or "")), _last(kernel.get("last_checkpoint")))
    call.screen.table(table)


def _last(checkpoint: Any) -> str:
    if isinstance(checkpoint, dict):
        return f"{str(checkpoint.get('id', ''))[:8]}  {age(str(checkpoint.get('created_at', '')))}"
    return str(checkpoint)[:8] if checkpoint else "-"
