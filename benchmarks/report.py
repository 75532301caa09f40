"""The table on the terminal and the section in RESULTS.md."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jupyter_ckpt.engine.criu_find import find_criu

from .figures import HEADS, Results
from .plain import COMPRESSOR
from .subject import WORK

FILE = Path(__file__).parent / "RESULTS.md"
HEADER = """# Results

Appended by `make bench`; the newest section is the last. Each figure is the median of several
rounds (smallest-largest). Rounds of both sides alternate, in one run, on one machine: trust the
ratios more than the seconds.
"""


def machine(load_before: float) -> list[str]:
    """Describe the machine and how busy it was."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        memory_kb = int(next(meminfo).split()[1])
    models = {line.split(":", 1)[1].strip() for line
              in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    return [
        f"Machine: {os.cpu_count()} x {', '.join(sorted(models)) or platform.machine()}, "
        f"{memory_kb / 1e6:.0f} GB, Linux {platform.release()}, file system {_file_system()}; "
        f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} at the end.",
        f"Python {platform.python_version()}, CRIU {find_criu().version}; plain CRIU is "
        f"`criu dump --leave-running` followed by `{COMPRESSOR}` and a sync of that file (ours is "
        "synced, too); its restore is `criu restore`, once with the archive unpacked first, as "
        "ours unpacks and verifies what it stored, and once from images left lying unpacked.",
    ]


def _file_system() -> str:
    best = ("", "?")
    here = WORK.resolve()
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if here.is_relative_to(place) and len(place) > len(best[0]):
            best = (place, kind)
    return best[1]


def show(console: Console, results: Results) -> None:
    table = Table(*HEADS, box=None, padding=(0, 1), header_style="bold")
    for row in results.rows:
        style = {None: "", True: "green", False: "red"}[row.met]
        *cells, met = row.cells()
        table.add_row(*cells, f"[{style}]{met}[/]" if style else met)
    console.print(table)
    for remark in results.remarks:
        console.print(f"  {remark}", markup=False, style="dim")


def append(results: Results, described: list[str], title: str) -> None:
    """Add a dated section to RESULTS.md."""
    lines = [] if FILE.exists() else [HEADER]
    lines += ["", f"## {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {title}", ""]
    lines += [f"{text}\n" for text in described]
    lines += [_markdown(HEADS), _markdown(["---"] * len(HEADS))]
    lines += [_markdown(_with_note(row.cells(), row.note)) for row in results.rows]
    lines += ["", *(f"- {remark}" for remark in results.remarks)]
    with FILE.open("a", encoding="utf-8") as out:
        out.write("\n".join(lines).rstrip() + "\n")


def _with_note(cells: list[str], note: str) -> list[str]:
    return [f"{cells[0]} ({note})" if note else cells[0], *cells[1:]]


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
