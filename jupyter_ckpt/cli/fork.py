"""``jupyter ckpt fork``: independent copies of a running session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import NotPossibleHere
from .call import Call, OnProgress, verb
from .interrupts import asking_a_server, still_goes_on
from .units import talk_to

if TYPE_CHECKING:
    from ..record import Record

MOST_COPIES = 16
_SERVER_TIMEOUT_S = 1800.0


@verb("fork")
@click.argument("kernel")
@click.option("-n", "copies", type=click.IntRange(1, MOST_COPIES), default=1, show_default=True,
              metavar="N", help="How many copies.")
@click.option("--no-server", is_flag=True,
              help="Copy the kernel only, even if a Jupyter server shows the session.")
def fork(call: Call, kernel: str, copies: int, no_server: bool) -> None:
    """Make independent copies of a running session.

    Each copy is a kernel of its own with everything the session holds now;
    the session itself goes on. A session that a Jupyter server shows is copied
    with its notebook; any other notebook stays the original's alone. Prints the
    id and the connection file of each copy.
    """
    record = call.kernels.find_kernel(call.locations, kernel)
    with call.screen.progress("Copying") as on_progress:
        found = None if no_server else _through_server(call, record, copies)
        if found is None:
            found = _headless(call, record, copies, on_progress)
    made = [{"kernel_id": copy["kernel_id"], "connection_file": copy["connection_file"]}
            for copy in found]
    call.screen.did = f"Copies were made as {', '.join(str(copy['kernel_id']) for copy in made)}"
    if call.screen.as_json:
        call.screen.document(made)
        return
    for copy in made:
        call.screen.line(f"{copy['kernel_id']}  {copy['connection_file']}")
    count = "1 copy" if len(made) == 1 else f"{len(made)} copies"
    call.screen.done(f"Made {count} of kernel {record.kernel_id[:8]}, which goes on.")
    for copy in found:
        if copy.get("notebook"):
            call.screen.next_step("Its notebook", str(copy["notebook"]))
    call.screen.next_step("Talk to a copy",
                          talk_to(made[0]["connection_file"]))


def _headless(
    call: Call, record: Record, copies: int, on_progress: OnProgress | None
) -> list[dict[str, Any]]:
    """Let the kernel's agent and those of the copies do it."""
    requests: list[tuple[str, str, str]] = []

    def note(kernel_id: str, kind: str, request_id: str) -> None:
        requests.append((kernel_id, kind, request_id))

    try:
        return call.kernels.fork(call.locations_of(record), record, copies, on_progress,
                                 note)
    except KeyboardInterrupt:
        if requests:
            still_goes_on(call, *requests[-1])
        raise


def _through_server(call: Call, record: Record, copies: int) -> list[dict[str, Any]] | None:
    """Let the server that shows the session copy it; None when there is none to ask."""
    from .owners import owner_of

    try:
        server = owner_of(call, record)
        if server is None:
            return None
        server.check()
    except NotPossibleHere:
        # A copy harms no server: it may as well be made without one.
        return None
    with asking_a_server(call):
        found: list[dict[str, Any]] = server.act(
            f"kernels/{record.kernel_id}/fork", {"n": copies}, _SERVER_TIMEOUT_S)
    return found
