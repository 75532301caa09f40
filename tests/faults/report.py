"""What was found: a line for each case, the table, the four figures, RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .matrix import Case, all_cases
from .outcome import Outcome

FILE = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
ACTS = ("kill", "stop", "hang", "enospc", "eio", "short", "scene")


def line(outcome: Outcome) -> str:
    word = "held" if outcome.held else "NOT FIRED" if not outcome.fired else "BROKEN"
    text = f"{word:9} {outcome.mode:8} {outcome.seconds:6.1f} s  {outcome.case}"
    return "\n".join([text, *(f"{'':10}{one}" for one in outcome.broken)])


def figures(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the four lines; only what really fired is counted."""
    fired = [one for one in outcomes if one.fired]
    modes = Counter(one.mode for one in fired)
    spread = ", ".join(f"{count} in {mode} mode" for mode, count in sorted(modes.items()))
    return [
        f"faults injected: {len(fired)} ({len({one.case for one in fired})} distinct cases; "
        f"{spread})",
        f"kernels lost: {sum(one.kernel_lost for one in fired)}",
        f"kernels left frozen: {sum(one.left_frozen for one in fired)}",
        f"checkpoints half visible: {sum(one.half_visible for one in fired)}",
    ]


def table(outcomes: Iterable[Outcome]) -> list[list[str]]:
    """Return operation x act, each cell ``held/injected``."""
    known: dict[str, Case] = {case.id: case for case in all_cases()}
    held: Counter[tuple[str, str]] = Counter()
    injected: Counter[tuple[str, str]] = Counter()
    for one in outcomes:
        case = known[one.case]
        for act in (case.act, "all"):
            injected[case.operation, act] += one.fired
            held[case.operation, act] += one.held
    rows = [["operation", *ACTS, "all"]]
    for operation in dict.fromkeys(case.operation for case in known.values()):
        cells = [f"{held[operation, act]}/{injected[operation, act]}"
                 if injected[operation, act] else "" for act in (*ACTS, "all")]
        if cells[-1]:
            rows.append([operation, *cells])
    return rows


def as_text(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in rows)


def publish(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Put the figures and the table into RESULTS.md, in the place of the last ones."""
    rows = table(outcomes)
    markdown = ["| " + " | ".join(row) + " |" for row in rows]
    markdown.insert(1, "|" + " --- |" * len(rows[0]))
    failed = [one for one in outcomes if not one.held]
    section = [
        BEGIN, "## Faults", "",
        f"By `make faults`, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, "
        f"{seconds / 60:.0f} minutes on {_machine()}.", "",
        *(f"    {text}" for text in figures(outcomes)), "",
        "Each cell: held/injected, both modes together. *kill* and *stop* are SIGKILL and "
        "SIGSTOP, *short* is a write that the disk takes half of, *scene* is a criu that "
        "misbehaves.", "", *markdown, "",
        *(f"- {one.case} ({one.mode}): {'; '.join(one.broken) or 'did not fire'}"
          for one in failed), END]
    text = FILE.read_text(encoding="utf-8") if FILE.exists() else "# Results\n"
    block = "\n".join(section)
    if BEGIN in text:
        text = re.sub(f"{BEGIN}.*?{END}", lambda _: block, text, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n\n{block}\n"
    FILE.write_text(text, encoding="utf-8")


def _machine() -> str:
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        memory_kb = int(next(meminfo).split()[1])
    models = {text.split(":", 1)[1].strip() for text
              in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")}
    return (f"{os.cpu_count()} x {', '.join(sorted(models)) or platform.machine()}, "
            f"{memory_kb / 1e6:.0f} GB, Linux {platform.release()}")
