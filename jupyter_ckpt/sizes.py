"""Amounts of bytes and shares of memory, as people write and read them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UsageError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) *(?:([kmgt])(i)?b?|b)?", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) *%", re.ASCII)
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
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


def size(size_bytes: float) -> str:
    """Return a number of bytes with three digits at most: ``'38 MB'``."""
    for factor, unit in _UNITS:
        # 999_600 bytes are "1.0 MB", never "1000 kB".
        if size_bytes >= factor * 0.9995:
            value = size_bytes / factor
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"


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
