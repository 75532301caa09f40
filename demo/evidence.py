"""What the demo asks the session, and what it has seen in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

QUESTIONS = {
    "array": "hashlib.sha256(data).hexdigest()[:16]",
    "generator": "[next(hailstones) for _ in range(3)]",
    "closure": "count_step()",
    "child": "add(5)",
    "pool": "[round(value) for value in pool.map(energy, [7, 8])]",
    "file": 'rows.write("one more row\\n"); rows.flush()\n'
            'rows.tell(), hashlib.sha256(open("long_job.csv", "rb").read()).hexdigest()[:16]',
    "figure": "figure.savefig('figure.png', dpi=60, metadata={'Software': None})\n"
              "hashlib.sha256(open('figure.png', 'rb').read()).hexdigest()[:16]",
}
"""Asked in this order after the last cell, here and in the uninterrupted run."""

IDENTITY = ("print(__import__('json').dumps("
            "[__import__('os').getpid(), adder.pid, sorted(pool._processes)]))")
BEATS = "print(beats)"
HEARTBEAT = ("print(__import__('json').dumps("
             "[beats, time.sleep(0.5), beats, heart.is_alive()]))")


@dataclass
class Evidence:
    """Both runs side by side. ``cells`` hold the outputs of each cell with code."""

    manifest: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    steps: int = 60
    saved_step: int = 0
    killed_step: int = 0
    killed: int = 0
    """Processes ended with SIGKILL: server, agent and the kernel's tree."""
    survivors: int = 0
    restored_by: str = ""
    restore_s: float = 0.0
    first_answer_s: float = 0.0
    warnings: list[str] = field(default_factory=list)
    same_kernel_id: bool = False
    identity_before: list[Any] = field(default_factory=list)
    identity_after: list[Any] = field(default_factory=list)
    beats_before: int = 0
    """What the thread had counted to when the last cell began."""
    heartbeat: list[Any] = field(default_factory=list)
    """Whether the thread lives, and two readings half a second apart."""
    result: str | None = None
    cells: list[list[dict[str, Any]]] = field(default_factory=list)
    counts: list[int | None] = field(default_factory=list)
    """Execution counts of the cells in the document, then of the questions."""
    answers: dict[str, str | None] = field(default_factory=dict)
    expected_result: str | None = None
    expected_cells: list[list[dict[str, Any]]] = field(default_factory=list)
    expected_answers: dict[str, str | None] = field(default_factory=dict)
    total_s: float = 0.0
