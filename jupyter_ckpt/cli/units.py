"""Spans and ages as people read them."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone

_AGES = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (60 * 86400, 86400, "days"))


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
