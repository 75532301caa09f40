"""Requests that are repeated until they are answered, although agents may die.

The same request id goes to each new agent, so that nothing is done twice: what
an agent finished before it died is found in the store and in the record.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from .client import AgentClient, OnProgress
from .errors import AgentUnreachable, JobNotFound, NotFound, UsageError
from .locations import Locations
from .protocol import SOCKET_NAME

log = logging.getLogger(__name__)
TRIES = 5
BACKOFF_S = 0.1
"""Before the second try; doubled with each one."""


def deliver(
    connect: Callable[[], AgentClient], kind: str, body: dict[str, Any],
    on_progress: OnProgress | None = None, request_id: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Have an agent carry out a request, exactly once, and return its result.

    `connect` gives the present agent, a new one when the last has died. Raises
    the error of the act itself, or `AgentUnreachable` after `TRIES` agents; then
    the request may still have been carried out, and the same id tells.
    """
    chosen = request_id or secrets.token_hex(12)
    for attempt in range(1, TRIES + 1):
        try:
            return connect().act(kind, body, on_progress, chosen)
        except (AgentUnreachable, JobNotFound) as error:
            # Not found: another agent took over before it had our request.
            log.info("request %s, try %d of %d: %s", chosen, attempt, TRIES, error.message)
            if attempt == TRIES:
                raise
            pause(BACKOFF_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def take_back(locations: Locations, kernel_id: str, kind: str, request_id: str) -> bool:
    """Cancel a request that its agent has not begun; tell whether it goes on, or is done.

    Starts no agent. Raises `AgentUnreachable` when nobody can tell.
    """
    folder = locations.folder(kernel_id)
    try:
        return AgentClient(folder).cancel(kind, request_id).result is not None
    except NotFound:
        return False  # it was not asked for yet
    except UsageError:
        return True
    except AgentUnreachable:
        if not (folder / SOCKET_NAME).exists():
            return False  # there was no agent to ask yet
        raise


__all__ = ["TRIES", "deliver", "take_back"]
