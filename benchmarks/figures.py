"""Measured series, their comparison with a goal, and how both are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Row:
    """One line of the table: ours, plain CRIU's where there is one, and the goal.

    ``goal`` is the largest ratio ours/plain, or with ``absolute`` the largest
    value of ours.
    """

    name: str
    unit: str
    ours: Sequence[float]
    plain: Sequence[float] = ()
    goal: float | None = None
    absolute: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The ratio of the medians, None when there is nothing to compare with."""
        return median(self.ours) / median(self.plain) if self.plain else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, None when there is none."""
        if self.goal is None:
            return None
        reached = median(self.ours) if self.absolute else self.ratio
        return reached is not None and reached <= self.goal

    def cells(self) -> list[str]:
        """Return the row as text: name, ours, plain, ratio, goal, met."""
        ratio = f"{self.ratio:.2f}x" if self.ratio is not None else ""
        goal = "" if self.goal is None else (
            f"<= {self.goal:g} {self.unit}" if self.absolute else f"<= {self.goal:g}x")
        met = {None: "", True: "met", False: "missed"}[self.met]
        return [self.name, _series(self.ours, self.unit), _series(self.plain, self.unit), ratio,
                goal, met]


@dataclass
class Results:
    """All rows, and remarks in the order they were made."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


HEADS = ["measure", "jupyter_ckpt", "plain CRIU", "ratio", "goal", ""]


def _series(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    digits = 0 if min(values) >= 100 else 1 if min(values) >= 10 else 2
    text = f"{median(values):.{digits}f} {unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    return text
