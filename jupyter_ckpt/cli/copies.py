"""Copies of saved notebooks, for a session that is restored beside its original."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..store import Store

_DOCUMENT = "notebook.ipynb"
"""Name of the notebook document inside a checkpoint."""


class NotebookCopy:
    """The document saved in a checkpoint, beside the original while a restore runs.

    Entering writes ``<stem>-restored[-N].ipynb``; leaving with an exception
    removes it again, unless `keep` was called. Raises `IntegrityError` when the
    saved document is damaged.
    """

    def __init__(self, store: Store, manifest: Manifest, original: str | None) -> None:
        self._store, self._manifest = store, manifest
        self._original = None if original is None else Path(original)
        self.path: str | None = None
        """Where the copy is; None when the checkpoint holds no document."""
        self.warnings: list[str] = []
        self._kept = False

    def keep(self) -> None:
        """Leave the copy where it is, whatever comes: its session is being restored."""
        self._kept = True

    def __enter__(self) -> NotebookCopy:
        if self._original is not None and _DOCUMENT in self._store.names(self._manifest):
            content = self._store.read_file(self._manifest, _DOCUMENT)
            try:
                self.path = _write_beside(self._original, content)
            except OSError as error:
                self.warnings.append(
                    f"No copy of the notebook was written beside {self._original}: {error}.")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None and self.path is not None and not self._kept:
            Path(self.path).unlink(missing_ok=True)


def bring_back(store: Store, manifest: Manifest, notebook: str | None) -> list[str]:
    """Write the saved document where the notebook is gone; return what to tell the user.

    Never raises; on failure nothing stands in the notebook's place.
    """
    if notebook is None or os.path.lexists(notebook):
        return []
    gone = f"The notebook {notebook} was gone"
    try:
        if _DOCUMENT not in store.names(manifest):
            return [f"{gone}, and the checkpoint holds no copy of it."]
        _write_new(Path(notebook), store.read_file(manifest, _DOCUMENT))
    except (OSError, CheckpointError) as error:
        return [f"{gone} and was not put back: {error}"]
    return [f"{gone}; the copy saved with the checkpoint was put back."]


def _write_beside(original: Path, content: bytes) -> str:
    """Write `content` under the first free name and return it; raise `OSError`."""
    number = 0
    while True:
        ending = f"-{number}" if number else ""
        path = original.with_name(f"{original.stem}-restored{ending}.ipynb")
        try:
            _write_new(path, content)
        except FileExistsError:
            number += 1
            continue
        return str(path)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet; on `OSError` there is none, or not ours."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
