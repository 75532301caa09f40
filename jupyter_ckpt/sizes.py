"""Amounts of bytes and shares of memory, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UsageError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) *(?:([kmgt])(i)?b?|b)?", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) *%", re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_SIZE_HINT = "Write it like 500M, 20G or 1.5T (powers of 1000), or 20GiB (powers of 1024)."
OFF = "off"


def parse_size(text: object) -> int:
    """Return the bytes that ``20G``, ``500 MB``, ``1.5T``, ``20GiB`` or ``1000`` stand for.

    Raises `UsageError` for anything else, and for zero.
    """
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise UsageError(f"{str(text)[:40]!r} is not an amount of bytes.", _SIZE_HINT)
    base = 1024 if match[3] else 1000
    size_bytes = int(float(match[1]) * base ** _POWERS.get((match[2] or "").lower(), 0))
    if size_bytes < 1:
        raise UsageError(f"{text!r} is no room at all.", _SIZE_HINT)
    return size_bytes


@dataclass(frozen=True)
class Threshold:
    """An amount of memory, absolute or as a share of all there is."""

    size_bytes: int = 0
    share: float = 0.0

    def of(self, total_bytes: int) -> float:
        """Return the threshold in bytes where there are `total_bytes` in all."""
        return self.size_bytes + self.share * total_bytes


def parse_threshold(text: object) -> Threshold | None:
    """Return what ``5%``, ``2G`` or ``off`` (None) stand for; raise `UsageError`."""
    if isinstance(text, str) and text.strip().lower() == OFF:
        return None
    match = _SHARE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        try:
            return Threshold(size_bytes=parse_size(text))
        except UsageError:
            raise UsageError(f"{str(text)[:40]!r} is neither an amount nor a share of memory.",
                             "Write it like 5%, 2G or off.") from None
    if not 0 < float(match[1]) <= 100:
        raise UsageError(f"{text!r} is no share of memory.", "Write it like 5%, 2G or off.")
    return Threshold(share=float(match[1]) / 100)
