"""Ctrl-C while others act for a command: what was begun goes on without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import AgentUnreachable

if TYPE_CHECKING:
    from .call import Call


def still_goes_on(call: Call, kernel_id: str, kind: str, request_id: str) -> bool:
    """Take a request back if its agent has not begun; say how it stands, and tell.

    When nobody knows, it counts as going on: what it may use must stay.
    """
    try:
        going = call.kernels.take_back(call.locations, kernel_id, kind, request_id)
    except AgentUnreachable as error:
        call.screen.say(f"Whether it goes on is not known: {error.message} "
                        f"'jupyter ckpt ps' shows what runs.")
        return True
    if not going:
        call.screen.say("It had not begun; nothing has changed.")
    elif kind == "checkpoints":
        call.screen.say("The save had begun and ends by itself; 'jupyter ckpt list' will show it.")
    else:
        call.screen.say(f"It had begun and goes on; 'jupyter ckpt ps' will show kernel "
                        f"{kernel_id[:8]}, 'jupyter ckpt stop {kernel_id[:8]}' ends it.")
    return going


@contextmanager
def asking_a_server(call: Call) -> Iterator[None]:
    """Say at an interrupt that the server, once asked, goes on."""
    try:
        yield
    except KeyboardInterrupt:
        call.screen.say("The Jupyter server was asked and goes on; "
                        "'jupyter ckpt ps' will show what runs then.")
        raise
