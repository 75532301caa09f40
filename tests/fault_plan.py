"""The plan that `jupyter_ckpt.faults` obeys, as tests arm it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jupyter_ckpt.faults import VARIABLE


class FaultPlan:
    """One folder; processes obey it that are started with its `environment`."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, if it is not there; nothing is armed that was not before."""
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {VARIABLE: str(self.folder)}

    def arm(self, *faults: dict[str, Any]) -> None:
        """Let `faults` happen from now on, each once: see `jupyter_ckpt.faults` for their fields.

        What has happened before is forgotten, and the trace.
        """
        for old in [*self.folder.glob("fired-*"), self.folder / "trace"]:
            old.unlink(missing_ok=True)
        self._write(list(faults))

    def disarm(self) -> None:
        """Let nothing fail any more; who hangs goes on."""
        self._write([])

    def fired(self, number: int = 0) -> bool:
        """Tell whether a fault that was armed last has happened."""
        return (self.folder / f"fired-{number}").exists()

    def times_fired(self) -> int:
        """Return how many of the faults that were armed last have happened."""
        return len(list(self.folder.glob("fired-*")))

    def passed(self, point: str) -> int:
        """Return how often processes have come by `point` since something was armed."""
        try:
            return (self.folder / "trace").read_text().split().count(point)
        except FileNotFoundError:
            return 0

    def _write(self, faults: list[dict[str, Any]]) -> None:
        # By rename: who reads it meanwhile finds a whole plan, and counts from the start.
        new = self.folder / "plan.new"
        new.write_text(json.dumps(faults))
        new.replace(self.folder / "plan.json")
