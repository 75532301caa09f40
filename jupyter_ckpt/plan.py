"""The schedule of a kernel's automatic checkpoints: its limits and its spellings.

The one place that decides what a schedule may be. Records, requests, options
and configuration all pass through here.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import UsageError

MIN_EVERY_S = 5.0
MAX_EVERY_S = 30 * 86400.0
MAX_CELLS = 10_000
MAX_KEEP = 1_000
DEFAULT_KEEP = 5
AUTOMATIC = ("interval", "cell", "pressure")
"""The triggers of checkpoints nobody asked for by hand; ``pressure`` is of older versions."""

SAVE_BELOW_VARIABLE = "JUPYTER_CKPT_SAVE_BELOW_MEMORY"
"""Tells agents with how little memory left a kernel that has a schedule is saved."""
DEFAULT_SAVE_BELOW = "5%"

KEEP_VARIABLE = "JUPYTER_CKPT_KEEP"
"""Tells agents what schedules keep that do not say it themselves, as JSON."""

KEEPS = ("keep", "keep_hourly", "keep_daily")
_FIELDS = ("every", "every_s", "cells", *KEEPS, "off")
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) *(s|m|min|h|d)?", re.ASCII)
_SPAN_HINT = "Write it like 30s, 10m or 2h."


@dataclass(frozen=True)
class Schedule:
    """Save every so many seconds, after so many cells, or both; keep the last few."""

    every_s: float | None = None
    cells: int | None = None
    keep: int | None = None
    """How many automatic checkpoints stay; None: `DEFAULT_KEEP`."""
    keep_hourly: int | None = None
    """Besides, the newest of each of so many hours that have one; None: of none."""
    keep_daily: int | None = None
    """Besides, the newest of each of so many days that have one; None: of none."""

    @property
    def kept(self) -> int:
        return DEFAULT_KEEP if self.keep is None else self.keep

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Schedule | None:
        """Return the schedule that a record or a request holds, None for none.

        Raises `UsageError` for one that cannot be.
        """
        return None if data is None else changed(None, data)


def of_checkpoint(data: Any) -> tuple[Schedule | None, list[str]]:
    """Return the schedule that a checkpoint holds, and the names of its unknown fields.

    Those a later version wrote: what is known without them counts. Raises
    `UsageError` for one that cannot be.
    """
    if not isinstance(data, dict):
        return Schedule.from_dict(data), []
    known = {name: value for name, value in data.items() if name in _FIELDS}
    unknown = sorted(str(name)[:40] for name in data if name not in _FIELDS)
    if unknown and not any(known.get(name) for name in ("every", "every_s", "cells")):
        return None, unknown  # it says how often only in words of that version
    return Schedule.from_dict(known), unknown


def changed(present: Schedule | None, changes: Any) -> Schedule | None:
    """Return `present` with `changes`: any of its fields (``every`` for a span) or ``off``.

    What is left out stays as it is, null takes it away. `present` may be one that
    never saves, from `keeping`. Raises `UsageError`.
    """
    wanted = read_changes(changes)
    if wanted.pop("off", False):
        return None
    found = replace(present or Schedule(), **wanted)
    if found.every_s is not None or found.cells is not None:
        return found
    if any(wanted.get(name) is not None for name in KEEPS):
        raise UsageError("How many checkpoints are kept means nothing without a schedule.",
                         "Say also how often: --every 10m or --cells 5.")
    return None


def keeping(data: Any) -> Schedule:
    """Return what a schedule keeps unless it says otherwise: no schedule, for it never saves.

    `data` holds none but `KEEPS`. Raises `UsageError`.
    """
    found = read_changes(data)
    if unknown := set(found) - set(KEEPS):
        raise UsageError(f"{min(unknown)!r} is nothing that says what is kept.",
                         f"Known: {', '.join(KEEPS)}.")
    return Schedule(**found)


def read_changes(changes: Any) -> dict[str, Any]:
    """Return `changes` checked, with ``every`` as ``every_s``; raise `UsageError`."""
    if not isinstance(changes, dict):
        raise UsageError("A schedule is a JSON object.")
    found = dict(changes)
    for name in found:
        if name not in _FIELDS:
            raise UsageError(f"The field {str(name)[:40]!r} is unknown in a schedule.",
                             f"Known: {', '.join(_FIELDS)}.")
    if "every" in found:
        if "every_s" in found:
            raise UsageError("'every' and 'every_s' are two words for the same.", "Give one.")
        every = found.pop("every")
        found["every_s"] = None if every is None else parse_span(every)
    if type(found.get("off", False)) is not bool:
        raise UsageError("'off' is true or false.")
    if found.get("off") and len(found) > 1:
        raise UsageError("A schedule is either switched off or set.",
                         "Leave out --off, or everything else.")
    if found.get("every_s") is not None:
        found["every_s"] = _checked_span(found["every_s"])
    for name, least, most in (("cells", 1, MAX_CELLS), ("keep", 1, MAX_KEEP),
                              ("keep_hourly", 0, MAX_KEEP), ("keep_daily", 0, MAX_KEEP)):
        if found.get(name) is not None:
            _check_count(name, found[name], least, most)
    return found


def parse_span(text: object) -> float:
    """Return the seconds that ``30s``, ``10m``, ``2h``, ``1d`` or ``90`` stand for.

    Raises `UsageError` for anything else; the limits are not looked at.
    """
    match = _SPAN.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(f"{str(text)[:40]!r} is not a span of time.", _SPAN_HINT)
    return float(match[1]) * _UNITS_S[match[2] or ""]


def _checked_span(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
        raise UsageError("'every_s' is a number of seconds.")
    if not MIN_EVERY_S <= value <= MAX_EVERY_S:
        raise UsageError(
            f"A checkpoint can be made every {span_text(MIN_EVERY_S)} at most and every "
            f"{span_text(MAX_EVERY_S)} at least, not every {span_text(float(value))}.", _SPAN_HINT)
    return float(value)


def _check_count(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"'{name}' is a whole number from {least} to {most}.")


def span_text(span_s: float) -> str:
    """Return a span as `parse_span` reads it, in the largest unit that is exact."""
    for unit, unit_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if span_s >= unit_s and span_s % unit_s == 0:
            return f"{span_s / unit_s:.0f}{unit}"
    return f"{span_s:g}s"


def shown(schedule: Schedule | None) -> dict[str, Any]:
    """Return the fields of a schedule as they are answered: with the defaults in force."""
    if schedule is None:
        return Schedule().to_dict()
    return {**schedule.to_dict(), "keep": schedule.kept,
            "keep_hourly": schedule.keep_hourly or 0, "keep_daily": schedule.keep_daily or 0}


def sentence(schedule: dict[str, Any]) -> str:
    """Return one line for people about what ``GET /schedule`` answers."""
    parts = []
    if schedule.get("every_s") is not None:
        parts.append(f"every {span_text(float(schedule['every_s']))}")
    if schedule.get("cells") is not None:
        count = schedule["cells"]
        parts.append("after every cell" if count == 1 else f"after every {count} cells")
    if not parts:
        return "No automatic checkpoints."
    kept = f"the last {schedule['keep']} are kept"
    older = [f"{count} {unit}{'s' if count > 1 else ''}"
             for unit, name in (("hour", "keep_hourly"), ("day", "keep_daily"))
             if (count := schedule.get(name))]
    if older:
        kept += f", and the newest of each of the last {' and '.join(older)}"
    return f"Automatic checkpoints {' and '.join(parts)}; {kept}."
