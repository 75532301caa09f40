"""How `jupyter ckpt` answers: one JSON document, or a few lines for people.

For people, standard output carries what a shell would want to keep (ids,
tables) and standard error the talk around it (success lines, next steps,
progress, errors). With ``--json`` standard output is one JSON document, and
standard error only a progress bar, when it is a terminal.

`rich` is loaded only when something is drawn, so that starting is quick.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..errors import CheckpointError
from ..protocol import Job
from ..sizes import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 20_000
"""Columns of a table that goes into a pipe: the longest name, path and note have room."""

_LEAST_WIDTH = 80
"""Columns of a table on a terminal that has fewer and wraps it: ids and numbers stay whole."""

_SHORTENED = ("NAME", "NOTEBOOK", "NOTE", "PROCESS")
"""The columns that give way where a terminal is narrow; their cells are `short_text`."""

OUTPUT_LOST = 74
"""What is exited with when only the answer could not be written (EX_IOERR of sysexits.h)."""

_STATES = {
    "queued": "Waiting for its turn",
    "launching": "Starting the kernel",
    "quiescing": "Preparing the kernel",
    "dumping": "Saving memory",
    "storing": "Compressing and storing",
    "verifying": "Reading back",
    "preparing": "Reading the checkpoint",
    "restoring": "Bringing the processes back",
}


class Screen:
    """Standard output and standard error of one command."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.did = ""
        """What stays done even if nobody hears of it: a clause with the id."""
        self._error: dict[str, Any] | None = None

    def _console(self, stream: Any) -> Console:
        from rich.console import Console

        # Sentences are wrapped by the terminal, if at all: they can be copied whole.
        return Console(file=stream, highlight=False, soft_wrap=True)

    def document(self, data: Any) -> None:
        """Print the JSON answer of the command (only called with ``--json``).

        In ASCII: JSON's own escapes are the same in every encoding of standard output.
        """
        click.echo(json.dumps(data, indent=2))

    def line(self, text: str) -> None:
        """Print one line of the result, exactly as it is."""
        click.echo(text)

    def table(self, table: Table) -> None:
        """Print a table on standard output."""
        from rich.console import Console

        if sys.stdout.isatty():
            Console(width=max(Console().width, _LEAST_WIDTH), highlight=False).print(table)
            return
        drawn = io.StringIO()
        Console(file=drawn, width=_PIPE_WIDTH, highlight=False).print(table)
        for line in drawn.getvalue().splitlines():
            self.line(line.rstrip())

    def say(self, text: str, style: str = "") -> None:
        """Print one line of talk on standard error; silent with ``--json``.

        `text` is shown literally: no markup in it is interpreted.
        """
        if not self.as_json:
            self._console(sys.stderr).print(text, style=style or None, markup=False)

    def done(self, text: str) -> None:
        """Say that something worked."""
        if not self.as_json:
            from rich.text import Text

            self._console(sys.stderr).print(Text.assemble(("✓ ", "bold green"), text))

    def next_step(self, text: str, command: str) -> None:
        """Say what could be done now, with the command that does it."""
        if not self.as_json:
            from rich.text import Text

            self._console(sys.stderr).print(Text.assemble((f"  {text}: ", "dim"), command))

    def warn(self, warnings: Sequence[str]) -> None:
        """Say what went well only in part, a line for each."""
        if not self.as_json:
            from rich.text import Text

            for text in warnings:
                self._console(sys.stderr).print(Text.assemble(("warning: ", "yellow"), text))

    def fail(self, error: CheckpointError) -> None:
        """Report the error a command ends with."""
        self.fail_with(error.to_dict())

    def fail_with(self, error: dict[str, Any]) -> None:
        """Report an error in the shape of `CheckpointError.to_dict`."""
        self._error = error
        if self.as_json:
            self.document({"error": error})
        else:
            self._print_error(error)

    def end(self, code: int, lost: OSError | None) -> int:
        """Report on standard error that the output was `lost`, if it was.

        Return the exit code: `code`, or `OUTPUT_LOST` instead of 0.
        """
        if lost is None:
            return code
        if code and self._error is not None:
            if self.as_json:
                self._print_error(self._error)
            return code
        what = f"{self.did}, but the output" if self.did else "The output"
        self._print_error({"message": f"{what} could not be written: {lost.strerror}."})
        return code or OUTPUT_LOST

    def _print_error(self, error: dict[str, Any]) -> None:
        from rich.text import Text

        console = self._console(sys.stderr)
        console.print(Text.assemble(("error: ", "bold red"), error["message"]))
        for label in ("hint", "log"):
            if error.get(label):
                console.print(Text.assemble((f"{label}: ", "cyan"), str(error[label])))

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[Job], None]]:
        """Show a progress bar while the block runs; yield what to tell it.

        Nothing is drawn unless standard error is a terminal.
        """
        if not sys.stderr.isatty():
            yield _ignore
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(32),
                   TextColumn("{task.fields[amount]}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, amount="")

            def show(job: Job) -> None:
                total = job.total_bytes
                amount = f"{size(job.done_bytes)} of {size(total)}" if total else ""
                bar.update(task, description=job.phase or _STATES.get(job.state, title),
                           completed=job.done_bytes, total=total or None, amount=amount)

            yield show


def _ignore(job: Job) -> None:
    """Take a progress report nobody looks at."""


def plain_table(*headings: str) -> Table:
    """Return an empty table in this command's look; ``'>NAME'`` aligns right.

    To `_SHORTENED` give cells of `short_text`: others are wrapped there.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if right else "left",
                         no_wrap=heading not in _SHORTENED)
    return table


def short_text(text: str, style: str = "") -> Text:
    """Return the cell of a table: one line, with an ellipsis where there is no room for it."""
    from rich.text import Text

    return Text(" ".join(text.splitlines()), style, no_wrap=True, overflow="ellipsis")
