"""Whether processes can be saved here at all; asked once by each process that runs tests."""

from __future__ import annotations

from functools import cache

import pytest

from jupyter_ckpt.doctor import doctor


@cache
def why_not() -> str:
    """Return what the doctor found, nothing where processes can be saved."""
    found = doctor()
    if found["process"]:
        return ""
    return " ".join(problem["message"] for problem in found["problems"]) or "no mode can be had"


def need_checkpoints() -> None:
    """Skip the test, with the reason, where no process can be saved."""
    if reason := why_not():
        pytest.skip(f"no process can be checkpointed here: {reason}")
