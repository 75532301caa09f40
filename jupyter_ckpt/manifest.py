"""The manifest: what one checkpoint is, as people and programs see it.

A manifest is a small JSON document. The bytes it stands for are named by one
hash, ``content`` (see `jupyter_ckpt.store`), so a signed manifest vouches for
every byte of its checkpoint.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from .errors import (
    FormatTooNew,
    MalformedId,
    ManifestCorrupt,
    RestoreRefused,
    UsageError,
    quoted,
)
from .shapes import misfit

PLAIN_FORMAT, ENCRYPTED_FORMAT = 1, 2
FORMAT = ENCRYPTED_FORMAT
"""The newest that is read. A checkpoint has the oldest that describes it."""
_ID = re.compile(r"[0-9a-f]{12,64}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")
_CONTENT = re.compile(r"[0-9a-f]{64}")
MAX_NAME_CHARS = 100
MAX_NOTE_CHARS = 10_000
PRESSURE = "pressure"
"""The purpose of what was saved because memory ran short; older versions called it a trigger."""


def new_id() -> str:
    """Return a fresh checkpoint id: 16 lower-case hex digits."""
    return secrets.token_hex(8)


def utc_now() -> str:
    """Return the present time as ISO 8601 UTC with milliseconds."""
    return _utc(datetime.now(timezone.utc))


def utc_after(moments: Iterable[str]) -> str:
    """Return the present time, or one just after the latest of `moments` if that is later.

    What is newer must look newer, also when the clock was set back.
    """
    now, latest = utc_now(), max(moments, default="")
    if now > latest:
        return now
    try:
        then = datetime.fromisoformat(latest.replace("Z", "+00:00")) + timedelta(milliseconds=1)
        return _utc(then.astimezone(timezone.utc))
    except (ValueError, OverflowError):
        return now  # that is no time at all


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def is_too_short(text: str) -> bool:
    """Tell whether `text` would be the beginning of an id if it were longer."""
    return re.fullmatch(r"[0-9a-f]{1,3}", text) is not None


def is_id_prefix(text: str) -> bool:
    return _PREFIX.fullmatch(text) is not None


def checked_name(name: str) -> str:
    """Return a usable checkpoint name; raise `UsageError` otherwise.

    A name must not look like an id, start with '-', or hold control
    characters or slashes.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME_CHARS:
        raise UsageError(
            f"A checkpoint name has 1 to {MAX_NAME_CHARS} characters, not {len(name)}.",
            "Choose a shorter one; a note can be longer." if name else "Give one, or none at all.")
    if is_id_prefix(name):
        raise UsageError(f"The name {quoted(name)} could be mistaken for a checkpoint id.",
                         "Choose a name with a letter after f, a space or a dash.")
    if name.startswith("-"):
        raise UsageError(f"The name {quoted(name)} starts with '-'.",
                         "It would look like an option: begin it with a letter.")
    if "/" in name:
        raise UsageError(f"The name {quoted(name)} holds '/'.",
                         "It would look like a path: use a dash or a space instead.")
    if not name.isprintable():
        raise UsageError(f"The name {quoted(name)} holds what cannot be printed.",
                         "Leave out line breaks, tabs and other control characters.")
    return name


def checked_note(note: str | None) -> str | None:
    """Return `note`; raise `UsageError` when it is longer than a note can be."""
    if note is not None and len(note) > MAX_NOTE_CHARS:
        raise UsageError(f"A note has at most {MAX_NOTE_CHARS} characters, not {len(note)}.",
                         "Keep long texts in a file and name it in the note.")
    return note


def checked_reference(text: str) -> str:
    """Return `text` if it can name a checkpoint (id prefix or name)."""
    if not text.strip():
        raise MalformedId("The id of the checkpoint is empty.",
                          "Give an id or a name; 'jupyter ckpt list' shows them.")
    if len(text) > MAX_NAME_CHARS or "/" in text or not text.isprintable():
        raise MalformedId(f"{quoted(text)} is neither a checkpoint id nor a name.",
                          "'jupyter ckpt list' shows the ids.")
    return text


@dataclass
class Manifest:
    """One checkpoint. Field names are the public JSON (sizes in bytes, times in s)."""

    id: str
    created_at: str
    kernel: dict[str, Any]
    content: str
    format: int = PLAIN_FORMAT
    name: str | None = None
    note: str | None = None
    pinned: bool = False
    parent: str | None = None
    trigger: str = "manual"
    engine: str = "process"
    mode: str = "none"
    notebook: dict[str, Any] | None = None
    processes: list[dict[str, Any]] = field(default_factory=list)
    memory_bytes: int = 0
    stored_bytes: int = 0
    pause_s: float = 0.0
    duration_s: float = 0.0
    files: list[dict[str, Any]] = field(default_factory=list)
    host: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    parked: bool = False
    """Its kernel was ended right after this save; opening its notebook brings it back."""
    purpose: str | None = None
    """Why it was made by itself: "before-restore", "fork", "pressure"; None for any other."""

    @property
    def for_memory(self) -> bool:
        """Whether it was made because memory ran short."""
        return PRESSURE in (self.purpose, self.trigger)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Manifest:
        """Return the manifest in `data`.

        Raises `FormatTooNew` when it was written by a newer jupyter_ckpt, and
        `ManifestCorrupt` when a field is missing or has the wrong type.
        """
        if not isinstance(data, dict):
            raise ManifestCorrupt("The manifest is not a JSON object.")
        version = data.get("format")
        if type(version) is int and version > FORMAT:
            raise FormatTooNew(
                f"Checkpoint {quoted(data.get('id'))} has format {quoted(version)}; "
                f"this jupyter_ckpt reads up to {FORMAT}.",
                "Upgrade jupyter-ckpt to use this checkpoint.")
        known = {f.name: f for f in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        try:
            manifest = cls(**kept)
        except TypeError as error:
            raise ManifestCorrupt(f"The manifest lacks a field: {error}.") from error
        manifest._check()
        return manifest

    def _check(self) -> None:
        place = misfit(vars(self), _SHAPE)
        if place is not None:
            raise ManifestCorrupt(f"Manifest field {place!r} has the wrong type.")
        if not is_id(self.id) or not _CONTENT.fullmatch(self.content):
            raise ManifestCorrupt("The manifest's id or content hash is malformed.")


def check_same_kernel(manifest: Manifest, present: str) -> None:
    """Raise `RestoreRefused` when a checkpoint is not of the kernelspec `present`.

    What shows the kernel would go on taking it for one of that kernelspec.
    """
    saved = manifest.kernel.get("name")
    if saved and present and saved != present:
        raise RestoreRefused(
            f"Checkpoint {manifest.id} is of a {saved} kernel and cannot take the place of a "
            f"{present} kernel.",
            "Open it as a new notebook ('jupyter ckpt restore --new').")


_SHAPE = {
    "id": str, "created_at": str, "content": str, "format": int,
    "kernel": {"id?": str, "name?": (str, None), "language?": (str, None),
               "execution_count?": (int, None), "running?": (dict, None)},
    "name": (str, None), "note": (str, None), "pinned": bool, "parent": (str, None),
    "trigger": str, "engine": str, "mode": str, "notebook": ({"path": Path}, None),
    "processes": [{"pid?": int, "ppid?": int, "name?": str, "rss_bytes?": int}],
    "memory_bytes": int, "stored_bytes": int, "pause_s": float, "duration_s": float,
    "files": [{"path": Path}], "host": dict, "warnings": [str],
    "parked": bool, "purpose": (str, None),
}
