"""What all REST routes have in common: who may, what a body may hold, how errors are told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_server.base.handlers import APIHandler

from ..errors import CheckpointError, UsageError, quoted
from ..manifest import Manifest, checked_reference
from .backend import Backend
from .documents import Documents
from .events import EventStream
from .fork_service import ForkService
from .jobs import JobBoard
from .restore_service import RestoreService
from .save_service import SaveService

SETTINGS_KEY = "jupyter_ckpt_services"
Verb = Callable[..., Awaitable[None]]


@dataclass(frozen=True)
class Services:
    """What the handlers call; kept in the web application's settings."""

    backend: Backend
    jobs: JobBoard
    events: EventStream
    documents: Documents
    saves: SaveService
    restores: RestoreService
    forks: ForkService


def answering(method: Verb) -> Verb:
    """Turn a `CheckpointError` of a verb into its JSON answer."""

    @wraps(method)
    async def answered(self: CheckpointHandler, *args: Any, **kwargs: Any) -> None:
        try:
            await method(self, *args, **kwargs)
        except CheckpointError as error:
            self.set_status(error.http_status)
            self.answer({"message": error.message, "error": error.to_dict()})

    return answered


class CheckpointHandler(APIHandler):
    """Common to all routes."""

    auth_resource = "checkpoints"

    @property
    def services(self) -> Services:
        found: Services = self.settings[SETTINGS_KEY]
        return found

    def answer(self, data: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(data, default=json_default))

    def body(self, **kinds: tuple[type, ...]) -> dict[str, Any]:
        """Return the request's JSON object; raise `UsageError` on any other thing.

        `kinds` names the fields that are allowed and their types.
        """
        text = self.request.body.strip()
        if not text:
            return {}
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"The request's body is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise UsageError("The request's body is not a JSON object.")
        for name, value in data.items():
            if name not in kinds:
                raise UsageError(f"The field {quoted(name)} is unknown here.",
                                 f"Known: {', '.join(kinds)}.")
            # bool is an int to Python, but not to a person.
            fits = isinstance(value, kinds[name])
            if not fits or (isinstance(value, bool) and bool not in kinds[name]):
                raise UsageError(f"The field {name!r} has the wrong type.")
        return data

    async def manifest(self, reference: str) -> Manifest:
        backend = self.services.backend
        checked_reference(reference)
        return await backend.run(lambda: backend.store().resolve(reference))
