"""The table that the demo ends with."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from .checks import Check
from .evidence import Evidence


def show(console: Console, evidence: Evidence, found: list[Check]) -> None:
    """Print what was saved, how long it took, and every check."""
    console.print()
    console.print(Padding(_figures(evidence), (0, 0, 1, 2)))
    table = Table(title="After kill -9 and restore", title_justify="left", title_style="bold",
                  header_style="dim", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("", width=1)
    table.add_column("Check", no_wrap=True)
    table.add_column("Seen", style="dim", overflow="fold")
    for check in found:
        mark = "[bold green]✓[/]" if check.ok else "[bold red]✗[/]"
        table.add_row(mark, check.name if check.ok else f"[bold red]{check.name}[/]", check.seen)
    console.print(Padding(table, (0, 0, 1, 2)))
    for warning in evidence.warnings:
        console.print(f"  Told at the restore: {warning}", style="dim", markup=False)
    failed = sum(not check.ok for check in found)
    verdict = (f"[bold red]{failed} of {len(found)} checks failed[/]" if failed
               else f"[bold green]All {len(found)} checks hold[/]")
    console.print(f"\n  {verdict} [dim]({evidence.total_s:.0f} s in all)[/]", highlight=False)


def _figures(evidence: Evidence) -> Table:
    manifest = evidence.manifest
    processes = manifest["processes"]
    table = Table(title="The session", title_justify="left", title_style="bold", box=None,
                  show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    names = ", ".join(sorted({str(process["name"]) for process in processes}))
    for name, value in (
        ("Checkpoint", f"{manifest['id']}  ({evidence.mode} mode, while cell "
                       f"[{(manifest['kernel']['running'] or {}).get('execution_count')}] ran)"),
        ("Saved", f"{len(processes)} processes ({names}), "
                  f"{len([f for f in manifest['files'] if f.get('saved')])} file being written, "
                  "the notebook"),
        ("Size", f"{_size(manifest['memory_bytes'])} of memory, "
                 f"{_size(manifest['stored_bytes'])} on disk"),
        ("Pause", f"{manifest['pause_s']:.2f} s; safely on disk after "
                  f"{manifest['duration_s']:.1f} s"),
        ("Restore", f"{evidence.restore_s:.2f} s by {_ways[evidence.restored_by]}; "
                    f"page up to date after {evidence.first_answer_s:.2f} s"),
    ):
        table.add_row(name, value.replace("[", r"\["))
    return table


_ways = {"rest": "the REST interface", "cli": "jupyter ckpt restore"}


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
