"""The shape of JSON that others wrote: checked once, where it is read.

A shape is a type (``str``, ``int``, ``float``, ``bool``, ``None``, ``dict``,
``list``; ``Path`` for a text that can be a file's path), a tuple of shapes (any of them), a list
with one shape (a list of such), or a dict of fields; a field whose name ends
with ``?`` may be absent. Fields that are not named may be anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MOST = 1 << 64
"""Sizes, times and inodes are smaller; beyond, the C library refuses them anyway."""


def misfit(value: Any, shape: Any, where: str = "") -> str | None:
    """Return where `value` does not have `shape` ('it' for the whole), None if it does."""
    if isinstance(shape, tuple):
        return None if any(misfit(value, one) is None for one in shape) else where or "it"
    if isinstance(shape, list):
        return _misfit_in_list(value, shape[0], where)
    if isinstance(shape, dict):
        return _misfit_in_fields(value, shape, where)
    return None if _is(value, shape) else where or "it"


def _misfit_in_list(value: Any, shape: Any, where: str) -> str | None:
    if not isinstance(value, list):
        return where or "it"
    found = (misfit(one, shape, f"{where}[{number}]") for number, one in enumerate(value))
    return next((place for place in found if place is not None), None)


def _misfit_in_fields(value: Any, shape: dict[str, Any], where: str) -> str | None:
    if not isinstance(value, dict):
        return where or "it"
    for name, inner in shape.items():
        plain = name.removesuffix("?")
        place = f"{where}.{plain}" if where else plain
        if plain in value:
            if (found := misfit(value[plain], inner, place)) is not None:
                return found
        elif plain == name:
            return place
    return None


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is int:
        return type(value) is int and -MOST < value < MOST
    if kind is float:
        return type(value) in (int, float) and abs(value) < MOST  # infinity and NaN are not
    if kind is Path:
        return isinstance(value, str) and "\0" not in value and _has_bytes(value)
    return isinstance(value, kind)


def _has_bytes(text: str) -> bool:
    """Tell whether a text can be a file name: no lone surrogates but those of odd bytes."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
