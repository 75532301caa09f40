"""Which living kernel somebody means, by what the runtime records say."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from .errors import (
    AmbiguousId,
    KernelNotFound,
    MalformedId,
    NotOurKernel,
    RecordCorrupt,
    UsageError,
    quoted,
)
from .locations import Locations
from .protocol import is_kernel_id
from .record import Record, scan_records

SHORTEST_PREFIX = 4
"""The same as for checkpoints: fewer characters are a mistake more often than a choice."""
_CONNECTION_FILE = re.compile(r"kernel-(.+)\.json")
_LIST_HINT = "'jupyter ckpt ps' lists the kernels."


def find_kernel(locations: Locations, text: str | None) -> Record:
    """Return the living kernel that `text` names, as `find_among` finds it."""
    found, damaged = scan_records(locations.runtime_dir)
    return find_among(locations, [record for record in found if record.is_alive()], damaged, text)


def find_among(locations: Locations, records: list[Record], damaged: dict[str, RecordCorrupt],
               text: str | None) -> Record:
    """Return the one of `records` that `text` names; `damaged` are the unreadable ones, by id.

    `text` is a kernel id or its beginning, a notebook path, or a connection
    file; None means the only one there is. Raises `MalformedId`,
    `KernelNotFound`, `AmbiguousId` (several fit), `NotOurKernel` (a kernel
    without an agent), `RecordCorrupt` when it names a kernel whose record
    cannot be read, or `UsageError` as `paths_meant` does.
    """
    if text is None:
        if not records and damaged:
            raise next(iter(damaged.values()))
        return _only(records, "is running", "Name one: 'jupyter ckpt ps' lists them.")
    checked_kernel_reference(text)
    exact = [record for record in records if record.kernel_id == text]
    if exact:
        return exact[0]
    if text in damaged:
        raise damaged[text]
    paths = _paths(locations, text)
    fitting = [r for r in records if _fits(r.kernel_id, text) or _belongs(r, paths)]
    unreadable = {name: error for name, error in damaged.items() if _fits(name, text)
                  or not paths.isdisjoint(_spellings(str(locations.connection_file(name))))}
    if unreadable and not fitting and len(unreadable) == 1:
        raise next(iter(unreadable.values()))
    names = [*(record.kernel_id for record in fitting), *unreadable]
    if len(names) > 1:
        raise _ambiguous(f"fits {quoted(text)}", names, _LIST_HINT)
    if fitting:
        return fitting[0]
    if is_kernel_id(text):
        paths.add(str(locations.connection_file(text)))
    if any(map(_is_foreign, paths)):
        raise NotOurKernel(
            f"The kernel {text} was not started by jupyter_ckpt, so it has no agent.",
            "Restart it with the extension enabled, or start one with 'jupyter ckpt start'.")
    raise _nothing(text, damaged.values())


def checked_kernel_reference(text: str) -> str:
    """Return `text` if it can name a kernel: an id, the beginning of one, or a path.

    Raises `MalformedId` otherwise, above all for the empty text of a variable
    that a script forgot to set.
    """
    if not text.strip():
        raise MalformedId("The name of the kernel is empty.",
                          "Give a kernel id, a notebook or a connection file; "
                          "'jupyter ckpt ps' lists the kernels.")
    if "\0" in text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
        raise MalformedId(f"{quoted(text)} is neither a kernel id nor a path.", _LIST_HINT)
    return text


def _fits(kernel_id: str, text: str) -> bool:
    return len(text) >= SHORTEST_PREFIX and kernel_id.startswith(text)


def _paths(locations: Locations, text: str) -> set[str]:
    """Return the files that `text` may mean.

    A bare name of a connection file also stands for the one in Jupyter's
    runtime folder, as for Jupyter's own programs.
    """
    found = paths_meant(text)
    if os.path.basename(text) == text and _CONNECTION_FILE.fullmatch(text):
        found |= _spellings(str(locations.connection_dir / text))
    return found


def paths_meant(text: str) -> set[str]:
    """Return the file that `text` is the path of; none where only an id can be meant.

    Raises `UsageError` for a relative path in a working folder that was removed.
    """
    try:
        return {os.path.realpath(text)}
    except FileNotFoundError:  # by os.getcwd(): the file itself need not exist
        if is_kernel_id(text) or _CONNECTION_FILE.fullmatch(text):
            return set()
        raise UsageError(f"The present folder is gone, so {quoted(text)} is the path of nothing.",
                         "Go to another folder ('cd'), or give a path that begins with '/'."
                         ) from None


def _spellings(path: str) -> set[str]:
    return {path, os.path.realpath(path)} if path else set()


def _belongs(record: Record, paths: set[str]) -> bool:
    """Tell whether one of `paths` is the notebook or the connection file of a kernel."""
    own = _spellings(record.notebook or "") | _spellings(record.connection_file)
    return not paths.isdisjoint(own)


def _is_foreign(path: str) -> bool:
    """Tell whether `path` is the connection file of a kernel that listens."""
    try:
        info = json.loads(Path(path).read_bytes())
        socket.create_connection((info["ip"], info["shell_port"]), timeout=2).close()
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False  # no such file, or what a dead kernel left
    return True


def _only(records: list[Record], what: str, hint: str) -> Record:
    if not records:
        raise KernelNotFound(f"No kernel {what}.",
                             "Start one in Jupyter, or with 'jupyter ckpt start'.")
    if len(records) > 1:
        raise _ambiguous(what, [record.kernel_id for record in records], hint)
    return records[0]


def _ambiguous(what: str, names: list[str], hint: str) -> AmbiguousId:
    return AmbiguousId(f"More than one kernel {what}: {', '.join(n[:8] for n in names)}.", hint)


def _nothing(text: str, damaged: Iterable[RecordCorrupt]) -> KernelNotFound:
    if len(text) < SHORTEST_PREFIX:
        return KernelNotFound(
            f"No kernel fits {quoted(text)}, which is too short for the beginning of an id.",
            f"Give at least {SHORTEST_PREFIX} characters; {_LIST_HINT}")
    # A notebook may well be that of a kernel that nobody can read about.
    return KernelNotFound(f"No kernel fits {quoted(text)}.",
                          " ".join([_LIST_HINT, *(error.message for error in damaged)]))
