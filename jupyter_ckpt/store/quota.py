"""How much a store may hold, and how much it holds.

``quota.json`` in the store's folder is what its owner set; it belongs to the
store, so that every agent and every server keeps to it. ``usage.json`` is a
cache: the bytes at the last true count and what was stored since. It is
written only while there is a quota, and may be lost at any time.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, StoreUnusable
from .disk import explaining, sync_folder, write_synced
from .layout import Layout
from .locks import EXCLUSIVE, LockFile

COUNT_AGAIN_S = 86_400.0
"""A count older than this is made anew, whatever was added up since."""
_MAX_BYTES = 4096


class Quota:
    """The quota of one store and its present use."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._limit = layout.root / "quota.json"
        self._usage = layout.root / "usage.json"
        self._lock = layout.root / "usage.lock"

    def read(self) -> int | None:
        """Return the quota in bytes, None when there is none.

        Raises `StoreUnusable` when the file is no quota.
        """
        try:
            with explaining("read its quota"):
                data = _json(self._limit)
        except ValueError:
            data = None
        else:
            if data is None:
                return None
        limit = data.get("size_bytes") if isinstance(data, dict) else None
        if type(limit) is not int or limit < 1:
            raise StoreUnusable(f"{self._limit} is malformed.",
                                "Set the quota again with 'jupyter ckpt quota'.")
        return limit

    def write(self, size_bytes: int | None) -> None:
        """Set the quota, or take it away; raises `StoreUnusable` or `OutOfSpace`."""
        with explaining("set its quota"):
            if size_bytes is None:
                self._limit.unlink(missing_ok=True)
            else:
                _replace(self._limit, {"size_bytes": size_bytes})
            sync_folder(self._layout.root)

    def usage_bytes(self) -> int:
        """Return how much is stored: exact when counted of late, else as added up since then."""
        with suppress(ValueError, OSError, KeyError, TypeError, OverflowError):
            data = _json(self._usage)
            if isinstance(data, dict) and 0 <= time.time() - data["counted_at_s"] < COUNT_AGAIN_S:
                return int(data["size_bytes"])
        return self.count()

    def count(self) -> int:
        """Look at every file and return how much is stored; remember it."""
        with explaining("measure it"), self._locked():
            found = _bytes_below(self._layout.chunks) + _bytes_below(self._layout.manifests)
            _replace(self._usage, {"size_bytes": found, "counted_at_s": time.time()})
        return found

    def grow(self, size_bytes: int) -> None:
        """Add what a transaction has stored; called after its commit, and never raises."""
        try:
            if not self._usage.exists():
                return
            with self._locked():
                data = _json(self._usage)
                _replace(self._usage, {**data, "size_bytes": data["size_bytes"] + size_bytes})
        except (CheckpointError, OSError, ValueError, KeyError, TypeError):
            self.forget()

    def forget(self) -> None:
        """Have the next question count: chunks were removed."""
        with suppress(OSError):
            self._usage.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with LockFile(self._lock) as lock, lock.held(EXCLUSIVE):
            yield


def _json(path: Path) -> Any:
    """Return the JSON in a small file of ours, None when there is no file; raise `ValueError`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb", buffering=0) as file:
        raw = file.read(_MAX_BYTES)
    try:
        return json.loads(raw or b"")
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _replace(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    write_synced(temporary, json.dumps(data).encode())
    os.rename(temporary, path)


def _bytes_below(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # removed meanwhile
                if entry.is_dir(follow_symlinks=False):
                    total += _bytes_below(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total
