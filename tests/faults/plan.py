"""The plan that `jupyter_ckpt.faults` obeys, as the runner arms it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VARIABLE = "JUPYTER_CKPT_FAULTS"


class Plan:
    """One folder with at most one armed fault at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fired = folder / "fired-0"
        folder.mkdir(exist_ok=True)

    def arm(self, **fault: Any) -> None:
        """Arm one fault: see `jupyter_ckpt.faults` for its fields."""
        self._fired.unlink(missing_ok=True)
        (self._folder / "trace").unlink(missing_ok=True)
        self._write([fault])

    def disarm(self) -> None:
        """Let nothing fail any more; who hangs goes on."""
        self._write([])

    def fired(self) -> bool:
        """Tell whether the fault armed last has happened."""
        return self._fired.exists()

    def _write(self, faults: list[dict[str, Any]]) -> None:
        # By rename: who reads it meanwhile finds a whole plan, and counts from the start.
        new = self._folder / "plan.new"
        new.write_text(json.dumps(faults))
        new.replace(self._folder / "plan.json")
