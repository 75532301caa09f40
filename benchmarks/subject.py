"""What is measured: one way of saving and restoring one session."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from .channel import Channel
from .sessions import READ_WATCH, RESET_WATCH

PORTS_DEADLINE_S = 75.0
WORK = Path(__file__).parent / "out"
"""Where all is written: the same file system for both, and not that of a tmpfs."""


@dataclass
class Saved:
    """One save: what the session felt, until when, and what it took."""

    pause_s: float
    """Longest time that a thread of the session did not run."""
    stored_s: float
    stored_bytes: int
    phases: str = ""


class Subject(ABC):
    """A living session; `save`, `kill` and `restore` may be repeated in this order."""

    channel: Channel

    def save(self) -> Saved:
        # Nobody pays for what the other side has left unwritten.
        os.sync()
        self.channel.run(RESET_WATCH)
        saved = self._save()
        saved.pause_s = float(self.channel.run(READ_WATCH))
        return saved

    def kill(self) -> None:
        """End everything with SIGKILL and wait until processes and ports are free."""
        self.channel.close()
        self._kill()
        deadline = time.monotonic() + PORTS_DEADLINE_S
        while self.channel.ports() & _taken_ports():
            if time.monotonic() > deadline:
                raise TimeoutError("The ports of a killed kernel did not become free.")
            time.sleep(0.1)

    def restore(self) -> float:
        """Bring the last save back; return the seconds to its first answer."""
        os.sync()
        began = time.monotonic()
        self._restore()
        self.channel.open()
        return time.monotonic() - began

    @abstractmethod
    def tidy(self) -> None:
        """Put aside what was saved, so that the next save is a first one again."""

    @abstractmethod
    def _save(self) -> Saved: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _restore(self) -> None: ...

    def end(self) -> None:
        self.channel.close()
        self._kill()


def _taken_ports() -> set[int]:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {int(line.split()[1].rsplit(":", 1)[1], 16) for line in lines}
