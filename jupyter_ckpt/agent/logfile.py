"""The agent's log: bounded, for agents live for weeks, and also what the interpreter prints."""

from __future__ import annotations

import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

MOST_BYTES = 1 << 20


class LogFile(RotatingFileHandler):
    """``agent.log``, to which standard output and error of this process are plugged.

    From `MOST_BYTES` on it is begun anew, and the one before kept as ``agent.log.1``.
    The kernel's own log is its tree's, which has it open for appending: it stays as it is.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(path, maxBytes=most_bytes, backupCount=1, errors="backslashreplace")

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        out = os.open(self.baseFilename, flags, 0o600)
        for stream in (1, 2):
            os.dup2(out, stream)
        return open(out, "a", encoding="utf-8", errors=self.errors)
