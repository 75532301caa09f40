"""Reasons to refuse a restore, collected so that all of them are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import RestoreRefused


class Refusals:
    """The reasons found so far."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def add(self, message: str, hint: str) -> None:
        """Add a reason: one sentence, and what to do about it."""
        self._found[message] = hint

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the `RestoreRefused` that the body raises, and go on behind it."""
        try:
            yield
        except RestoreRefused as error:
            self.add(error.message, error.hint)

    def raise_if_any(self) -> None:
        """Raise one `RestoreRefused` with all reasons."""
        if self._found:
            hints = dict.fromkeys(hint for hint in self._found.values() if hint)
            raise RestoreRefused(" ".join(self._found), " ".join(hints))
