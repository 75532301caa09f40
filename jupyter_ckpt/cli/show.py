"""``jupyter ckpt show``: everything about one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..sizes import size
from .call import Call, verb
from .output import plain_table, short_text
from .places import shown_path, spelled
from .units import age, span

if TYPE_CHECKING:
    from ..manifest import Manifest


@verb("show")
@click.argument("checkpoint", metavar="ID")
def show(call: Call, checkpoint: str) -> None:
    """Show one checkpoint: what it holds, when and how it was made."""
    manifest = call.store.resolve(checkpoint)
    if call.screen.as_json:
        call.screen.document(manifest.to_dict())
        return
    _print_summary(call, manifest)
    if manifest.processes:
        call.screen.line("")
        _print_processes(call, manifest.processes)
    call.screen.warn(manifest.warnings)
    call.screen.next_step("Go back to it", f"jupyter ckpt restore {spelled(manifest)}")


def _print_summary(call: Call, m: Manifest) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for label, value in _summary(m):
        if value:
            grid.add_row(Text(label, "dim"), Text(value, overflow="fold"))
    call.screen.table(grid)


def _summary(m: Manifest) -> list[tuple[str, str]]:
    kernel = m.kernel
    running = " while a cell was running" if kernel.get("busy") else ""
    count = kernel.get("execution_count")
    why = "memory ran short" if m.for_memory else m.trigger
    return [
        ("id", m.id),
        ("name", (m.name or "") + (" (pinned)" if m.pinned else "")),
        ("note", m.note or ""),
        ("saved", f"{age(m.created_at)} ({m.created_at}), {why}{running}"),
        ("notebook", shown_path(m.notebook["path"]) if m.notebook else ""),
        ("kernel", f"{kernel.get('name', '?')} {kernel.get('id', '?')}"
                   + (f", after In [{count}]" if count is not None else "")),
        ("memory", f"{size(m.memory_bytes)} in {len(m.processes) or 1} process(es)"),
        ("stored", f"{size(m.stored_bytes)} new on disk"),
        ("time", f"paused {span(m.pause_s)}, done after {span(m.duration_s)}"),
        ("engine", f"{m.engine}, {m.mode} mode"),
        ("parent", m.parent or ""),
        ("files", "\n".join(shown_path(str(f.get("path", ""))) for f in m.files)),
    ]


def _print_processes(call: Call, processes: list[dict[str, Any]]) -> None:
    table = plain_table(">PID", ">PARENT", "PROCESS", ">MEMORY")
    for process in processes:
        table.add_row(str(process.get("pid", "")), str(process.get("ppid", "")),
                      short_text(str(process.get("name", ""))), size(process.get("rss_bytes") or 0))
    call.screen.table(table)
