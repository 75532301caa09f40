"""Sizes, spans and ages as people read them."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone

_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_AGES = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (60 * 86400, 86400, "days"))


def size(size_bytes: float) -> str:
    """Return a number of bytes with three digits at most: ``'38 MB'``."""
    for factor, unit in _SIZES:
        # 999_600 bytes are "1.0 MB", never "1000 kB".
        if size_bytes >= factor * 0.9995:
            value = size_bytes / factor
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"


def span(span_s: float) -> str:
    """Return a duration: ``'85 ms'``, ``'2.1 s'``, ``'3 min 20 s'``."""
    if span_s < 0.9995:
        return f"{span_s * 1000:.0f} ms"
    if span_s < 59.95:
        return f"{span_s:.1f} s"
    minutes, seconds = divmod(round(span_s), 60)
    return f"{minutes} min {seconds} s"


def age(created_at: str, now: datetime | None = None) -> str:
    """Return how long ago an ISO 8601 time was; the text itself if it is no time."""
    try:
        then = datetime.fromisoformat(created_at.replace("Z", "+00:00"))
    except ValueError:
        return created_at
    if then.tzinfo is None:
        then = then.replace(tzinfo=timezone.utc)
    seconds = ((now or datetime.now(timezone.utc)) - then).total_seconds()
    if seconds < 5:
        return "just now"
    for limit, unit_s, unit in _AGES:
        if seconds < limit:
            count = int(seconds // unit_s)
            return f"{count} {unit.rstrip('s') if count == 1 and unit == 'days' else unit} ago"
    return then.date().isoformat()


def talk_to(connection_file: str) -> str:
    """Return the command that talks to a kernel, of those installed here."""
    program = "console" if shutil.which("jupyter-console") else "run"
    return f"jupyter {program} --existing {connection_file}"
