"""``python -m demo``: exits 0 only if every check holds."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import Any

from rich.console import Console

from jupyter_ckpt.doctor import doctor

from .checks import checks
from .home import Home
from .report import show
from .server import DemoFailed
from .story import RESTORERS, Story


def main(argv: list[str] | None = None) -> int:
    """Tell the story; return 0 when all holds, 1 when not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--restore-by", choices=RESTORERS, default="rest",
                        help="restore through the server's REST interface, or by the command line")
    options = parser.parse_args(argv)
    console = Console(highlight=False)
    # A demo that is told to end must still clean up behind itself.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        if not _is_possible(console):
            return 1
        return _tell(console, options.restore_by)
    except DemoFailed as error:
        console.print(f"[bold red]The demo failed.[/] {error}", markup=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is ended.")
        return 130


def _is_possible(console: Console) -> bool:
    found = doctor()
    if not found["process"]:
        console.print("[bold red]No process can be saved here.[/]")
        for problem in found["problems"]:
            console.print(f"  {problem}", markup=False)
        console.print("'jupyter ckpt doctor' tells what to do.")
    return bool(found["process"])


def _tell(console: Console, restore_by: str) -> int:
    began = time.monotonic()

    def tell(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.1f} s[/]  ", end="")
        console.print(text, markup=False, soft_wrap=True)

    with Home() as home:
        evidence = Story(home, tell, restore_by).run()
        found = checks(evidence)
        show(console, evidence, found)
    return 0 if all(check.ok for check in found) else 1


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
