"""The notebooks that checkpoints hold, for the sessions that are restored."""

from __future__ import annotations

import logging
from typing import Any

from tornado.web import HTTPError

from ..errors import CheckpointError
from ..manifest import Manifest
from .backend import Backend
from .documents import Documents, empty_notebook, saved_document


class SavedDocuments:
    """Gives a restored session its notebook, and tells what is not as it was saved."""

    def __init__(self, backend: Backend, documents: Documents, log: logging.Logger) -> None:
        self._backend = backend
        self._documents = documents
        self._log = log

    async def put_back(self, manifest: Manifest, path: str) -> list[str]:
        """Write the saved notebook to `path` if none is there; return what to tell the user."""
        if await self._documents.exists(path):
            return []
        gone = f"The notebook {path} was gone"
        try:
            document = await self._saved(manifest)
            if document is None:
                return [f"{gone}, and the checkpoint holds no copy of it."]
            await self._documents.write(path, document)
        except CheckpointError as error:
            return [f"{gone} and was not put back: {error}"]
        return [f"{gone}; the copy saved with the checkpoint was put back."]

    async def for_copy(
        self, manifest: Manifest, original: str
    ) -> tuple[dict[str, Any], list[str]]:
        """Return what a new notebook holds, and what to tell about it.

        Without a saved document it is the one at `original` as it is now, or an
        empty one: a kernel without a notebook would not be seen.
        """
        saved = await self._saved(manifest)
        if saved is not None:
            return saved, []
        lacks = "The checkpoint holds no copy of the notebook"
        try:
            if await self._documents.exists(original):
                found = await self._documents.read(original)
                return found, [f"{lacks}; this one is a copy of {original} as it is now."]
        except HTTPError as error:
            self._log.warning("The notebook %s cannot be copied: %s", original, error)
        empty = empty_notebook(str(manifest.kernel.get("name") or ""))
        return empty, [f"{lacks}; this one is empty, but the session holds everything."]

    async def _saved(self, manifest: Manifest) -> dict[str, Any] | None:
        return await self._backend.run(lambda: saved_document(self._backend.store(), manifest))
