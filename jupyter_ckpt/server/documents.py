"""Notebook documents as the server's contents manager knows them."""

from __future__ import annotations

import asyncio
import json
import os
import posixpath
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.utils import ApiPath, to_api_path, to_os_path
from tornado.web import HTTPError

from ..errors import ManifestCorrupt, RestoreRefused
from ..manifest import Manifest
from ..store import Store

NOTEBOOK_FILE = "notebook.ipynb"
"""Name of the notebook document inside a checkpoint."""
_DRIVES = ("RTC:",)


def without_drive(api_path: str) -> str:
    """Return an API path without the drive that real-time collaboration puts before it."""
    for drive in _DRIVES:
        api_path = api_path.removeprefix(drive)
    return api_path


def leads_out(api_path: str) -> bool:
    """Tell whether an API path names no file in the server's root: by ``..``, or at all."""
    return ".." in without_drive(api_path).split("/") or "\0" in api_path


class Documents:
    """Paths and copies of notebooks; API paths are relative, with ``/``.

    The drive that a page may put before a path is none of the contents manager's.
    """

    def __init__(self, contents_manager: Any) -> None:
        self._contents = contents_manager
        self._copying = asyncio.Lock()

    @property
    def _root_dir(self) -> str | None:
        root = getattr(self._contents, "root_dir", None)
        return str(Path(root).resolve()) if root else None

    def os_path(self, api_path: str) -> Path | None:
        """Return the file behind an API path.

        None where documents are no files, and for a path that leads out of the root.
        """
        if self._root_dir is None or leads_out(api_path):
            return None
        return Path(to_os_path(ApiPath(without_drive(api_path)), self._root_dir))

    def api_path(self, path: str) -> str | None:
        """Return a file's API path, None when the server does not serve it.

        A link in the root may lead anywhere, so the path counts as it is
        spelled, too; without ``..``, which means something else behind a link.
        """
        root = self._root_dir
        if root is None:
            return None
        spelled_root = os.path.abspath(self._contents.root_dir)
        for base in (spelled_root, root):
            if Path(path).is_relative_to(base) and ".." not in Path(path).parts:
                return str(to_api_path(path, base))
        resolved = str(Path(path).resolve())
        return str(to_api_path(resolved, root)) if Path(resolved).is_relative_to(root) else None

    async def content_for_save(self, api_path: str) -> bytes | None:
        """Return the document to save with a checkpoint, None: the agent reads the file.

        Only contents managers that keep no files need it.
        """
        if leads_out(api_path):
            return None
        path, api_path = self.os_path(api_path), without_drive(api_path)
        if path is not None and path.exists():
            return None
        if not await ensure_async(self._contents.file_exists(api_path)):
            return None
        model = await ensure_async(self._contents.get(api_path, content=True, type="notebook"))
        return json.dumps(model["content"]).encode()

    async def write_copy(self, original: str, document: dict[str, Any], word: str,
                         wanted: str | None = None) -> str:
        """Write `document` beside `original` as ``<stem>-<word>[-N].ipynb``; return its path.

        Or as `wanted`, if that is a notebook's name that nothing has. Where that
        folder is gone the copy goes to the server's root. Raises `RestoreRefused`
        when it cannot be written.
        """
        original = without_drive(original)
        if not await self.has_folder(original):
            original = posixpath.basename(original)
        stem, _ = posixpath.splitext(original)
        candidate, number = f"{stem}-{word}.ipynb", 0
        async with self._copying:  # or two copies at once would choose one name
            if wanted and wanted.endswith(".ipynb") and not await self.exists(wanted):
                candidate = without_drive(wanted)
            while await ensure_async(self._contents.file_exists(candidate)):
                number += 1
                candidate = f"{stem}-{word}-{number}.ipynb"
            await self.write(candidate, document)
        return candidate

    async def write(self, api_path: str, document: dict[str, Any]) -> None:
        """Write a notebook; raises `RestoreRefused` when it cannot be written."""
        model = {"type": "notebook", "format": "json", "content": document}
        try:
            await ensure_async(self._contents.save(model, without_drive(api_path)))
        except HTTPError as error:
            raise RestoreRefused(f"The notebook {api_path} cannot be written: "
                                 f"{error.log_message or error}.") from error

    async def exists(self, api_path: str) -> bool:
        return bool(await ensure_async(self._contents.file_exists(without_drive(api_path))))

    async def has_folder(self, api_path: str) -> bool:
        """Tell whether the folder that a document lies in is there."""
        folder = posixpath.dirname(without_drive(api_path))
        return not folder or bool(await ensure_async(self._contents.dir_exists(folder)))

    async def remove(self, api_path: str) -> None:
        await ensure_async(self._contents.delete(without_drive(api_path)))

    async def read(self, api_path: str) -> dict[str, Any]:
        """Return the notebook JSON at an API path."""
        model = await ensure_async(
            self._contents.get(without_drive(api_path), content=True, type="notebook"))
        content: dict[str, Any] = model["content"]
        return content


def empty_notebook(kernel_name: str) -> dict[str, Any]:
    """Return a notebook without cells for kernels of this name."""
    kernelspec = {"name": kernel_name, "display_name": kernel_name}
    return {"nbformat": 4, "nbformat_minor": 5, "cells": [], "metadata": {"kernelspec": kernelspec}}


def saved_document(store: Store, manifest: Manifest) -> dict[str, Any] | None:
    """Return the notebook saved in a checkpoint, None when it holds none.

    Raises `ManifestCorrupt` when the saved document is not a notebook.
    """
    if NOTEBOOK_FILE not in store.names(manifest):
        return None
    try:
        document = json.loads(store.read_file(manifest, NOTEBOOK_FILE))
    except ValueError as error:
        raise ManifestCorrupt(
            f"The notebook saved in checkpoint {manifest.id} is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise ManifestCorrupt(f"The notebook saved in checkpoint {manifest.id} is no notebook.")
    return document
