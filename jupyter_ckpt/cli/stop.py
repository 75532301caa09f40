"""``jupyter ckpt stop``: end a kernel."""

from __future__ import annotations

import click

from .call import Call, verb
from .owners import end_through, owner_of


@verb("stop")
@click.argument("kernel")
@click.option("--no-server", is_flag=True,
              help="End it directly; a server that shows it may then start a fresh one.")
def stop(call: Call, kernel: str, no_server: bool) -> None:
    """End a kernel with everything it started. Its checkpoints stay.

    A kernel that a Jupyter server shows is ended by that server, together
    with its session.
    """
    record = call.kernels.find_kernel(call.locations, kernel)
    server = None if no_server else owner_of(call, record)
    if server is None or not end_through(server, record.kernel_id):
        call.kernels.stop(call.locations, record)
    if call.screen.as_json:
        call.screen.document({"stopped": record.kernel_id})
        return
    call.screen.done(f"Kernel {record.kernel_id[:8]} has ended; its checkpoints stay.")
    call.screen.next_step("Bring it back", "jupyter ckpt list, then jupyter ckpt restore ID")
