"""What became of one case."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass
class Outcome:
    """`broken` lists each promise that was not kept, as one sentence."""

    case: str
    mode: str = ""
    fired: bool = False
    broken: list[str] = field(default_factory=list)
    kernel_lost: bool = False
    left_frozen: bool = False
    half_visible: int = 0
    first: str = ""
    """How the attempt ended that met the fault: 'done' or its error."""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        return self.fired and not self.broken

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        return cls(**json.loads(text))
