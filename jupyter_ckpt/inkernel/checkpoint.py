"""The objects that a user gets: one checkpoint, or the list of them."""

from __future__ import annotations

from datetime import datetime, timezone
from html import escape
from typing import Any

SHORT_ID = 8


def size_text(size_bytes: float) -> str:
    """Return a size for people: 31 MB, 1.2 GB."""
    for limit, unit, divisor in ((1e6, "kB", 1e3), (1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if size_bytes < limit:
            number = size_bytes / divisor
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{size_bytes / 1e12:.1f} TB"


def seconds_text(seconds: float) -> str:
    """Return a short time for people: 0.12 s, 3.4 s."""
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def age_text(created_at: Any, now: datetime | None = None) -> str:
    """Return how long ago an ISO 8601 time is: 5 s ago, 2 h ago; '' if unreadable."""
    try:
        created = datetime.fromisoformat(str(created_at).replace("Z", "+00:00"))
        seconds = ((now or datetime.now(timezone.utc)) - created).total_seconds()
    except (ValueError, TypeError):
        return ""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


class Checkpoint:
    """One checkpoint of this session, as ``%checkpoint`` returns it.

    ``restored`` is True when this return happens in a process that was restored
    from the checkpoint. Sizes are in bytes, times in seconds.
    """

    def __init__(self, manifest: dict[str, Any], restored: bool = False,
                 warnings: Any = ()) -> None:
        self.manifest = manifest
        self.restored = restored
        self.warnings = [str(w) for w in warnings or manifest.get("warnings") or ()]

    @property
    def id(self) -> str:
        return str(self.manifest.get("id", ""))

    @property
    def name(self) -> str | None:
        return self.manifest.get("name")

    @property
    def note(self) -> str | None:
        return self.manifest.get("note")

    @property
    def created_at(self) -> str:
        return str(self.manifest.get("created_at", ""))

    @property
    def size_bytes(self) -> int:
        """Memory of the whole session in the checkpoint."""
        return int(self.manifest.get("memory_bytes") or 0)

    @property
    def stored_bytes(self) -> int:
        """Bytes that this checkpoint added on disk."""
        return int(self.manifest.get("stored_bytes") or 0)

    @property
    def pause_s(self) -> float:
        """How long the session stood still."""
        return float(self.manifest.get("pause_s") or 0.0)

    def _label(self) -> str:
        return self.id[:SHORT_ID] + (f" '{self.name}'" if self.name else "")

    def _sentence(self) -> str:
        if self.restored:
            age = age_text(self.created_at)
            return f"Restored from checkpoint {self._label()}" + (f" (saved {age})" if age else "")
        return (f"Checkpoint {self._label()} saved: {size_text(self.size_bytes)} in memory, "
                f"{size_text(self.stored_bytes)} new on disk, "
                f"paused {seconds_text(self.pause_s)}")

    def __repr__(self) -> str:
        return "\n".join([self._sentence(), *(f"  Warning: {w}" for w in self.warnings)])

    def _repr_html_(self) -> str:
        mark = "&#8634;" if self.restored else "&#10003;"
        warnings = "".join(f"<div>&#9888; {escape(w)}</div>" for w in self.warnings)
        title = escape(f"{self.id} {self.created_at}", quote=True)
        return (f'<div class="jupyter-ckpt-saved" title="{title}">{mark} '
                f"{escape(self._sentence())}{warnings}</div>")


class CheckpointList(list):  # type: ignore[type-arg]
    """Checkpoints, newest first, shown as a table."""

    _HEADS = ("id", "name", "saved", "in memory", "on disk", "note")

    def _rows(self) -> list[tuple[str, ...]]:
        return [(c.id[:SHORT_ID] + (" (pinned)" if c.manifest.get("pinned") else ""),
                 c.name or "", age_text(c.created_at) or c.created_at, size_text(c.size_bytes),
                 size_text(c.stored_bytes), c.note or "") for c in self]

    def __repr__(self) -> str:
        if not self:
            return "No checkpoints yet: %checkpoint saves one."
        rows = [self._HEADS, *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self._HEADS))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
                         for row in rows)

    def _repr_html_(self) -> str:
        if not self:
            return f"<div>{escape(repr(self))}</div>"
        head = "".join(f"<th>{h}</th>" for h in self._HEADS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
                       for row in self._rows())
        return (f'<table class="jupyter-ckpt-list"><thead><tr>{head}</tr></thead>'
                f"<tbody>{body}</tbody></table>")
