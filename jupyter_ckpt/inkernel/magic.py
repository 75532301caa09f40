"""``%checkpoint``: its words, its options, what it shows."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any, NoReturn

from .checkpoint import Checkpoint, CheckpointList
from .failures import CheckpointFailed
from .schedule import sentence
from .session import Session

_SCHEDULE = ("every", "cells", "keep", "keep_hourly", "keep_daily")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    # No abbreviations: --keep-h would be understood today and not tomorrow.
    parser = _Parser(prog="%checkpoint", add_help=False, allow_abbrev=False)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--note")
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--every")
    parser.add_argument("--cells", type=int)
    parser.add_argument("--keep", type=int)
    parser.add_argument("--keep-hourly", type=int)
    parser.add_argument("--keep-daily", type=int)
    parser.add_argument("--off", action="store_true")
    return parser


class CheckpointMagic:
    """The line magic of one kernel."""

    def __init__(self, shell: Any, session: Session) -> None:
        self._shell = shell
        self._session = session

    def register(self) -> None:
        def checkpoint(line: str = "") -> Any:
            return self.run(line)

        checkpoint.__doc__ = HELP
        self._shell.register_magic_function(checkpoint, "line", "checkpoint")

    def run(self, line: str) -> Any:
        """Do what the words of `line` say; show it, and return it."""
        from IPython.core.error import UsageError

        try:
            options = _parser().parse_args(shlex.split(line))
        except ValueError as error:
            raise UsageError(f"{error}. %checkpoint? shows how to use it.") from None
        changes = {name: getattr(options, name) for name in _SCHEDULE
                   if getattr(options, name) is not None}
        if options.off:
            changes["off"] = True
        name = " ".join(options.name) or None
        saves = bool(name or options.note or options.pin)
        if options.list and (changes or saves):
            raise UsageError("%checkpoint --list only lists: it takes nothing else.")
        try:
            if changes:
                # First: a senseless schedule must not cost a save, and what is
                # saved already comes back with it.
                schedule = self._session.schedule(changes)
                print(sentence(schedule))
                if not saves:
                    return _ShownSchedule(schedule, self._shell)
            self._tell_failure()
            if options.list:
                return CheckpointList(Checkpoint(m) for m in self._session.agent.checkpoints())
            found = self._session.checkpoint(name, options.note, options.pin)
        except CheckpointFailed as error:
            # One clear line: a traceback through this code would help nobody.
            line = f"\x1b[31m{type(error).__name__}\x1b[0m: {error}"
            error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
            raise
        return self._shown(found)

    def _tell_failure(self) -> None:
        """Say once that an automatic checkpoint failed: nobody was there to be told."""
        if self._session.cells.scheduled:
            news = self._session.failure_news.sentence()
            if news:
                print(news, file=sys.stderr)

    def _shown(self, found: Checkpoint) -> Checkpoint:
        _display(found)
        return _ShownCheckpoint.of(found, self._shell)


class _ShownCheckpoint(Checkpoint):
    """A checkpoint that was shown in its cell already, and is not shown there twice."""

    _shell: Any = None
    _shown_in: Any = None

    @classmethod
    def of(cls, found: Checkpoint, shell: Any) -> _ShownCheckpoint:
        shown = cls(found.manifest, found.restored, found.warnings)
        shown._shell = shell
        shown._shown_in = _cell(shell)
        return shown

    def _ipython_display_(self) -> None:
        if self._shown_in is None or self._shown_in != _cell(self._shell):
            _display(Checkpoint(self.manifest, self.restored, self.warnings))

    def __reduce__(self) -> Any:
        return Checkpoint, (self.manifest, self.restored, self.warnings)


class _ShownSchedule:
    """What is returned when only a schedule was set: no checkpoint was made.

    The schedule was shown in its cell already, and is not shown there twice.
    """

    id = name = note = None
    restored = False

    def __init__(self, schedule: dict[str, Any], shell: Any) -> None:
        self.schedule = schedule
        self._shell = shell
        self._shown_in = _cell(shell)

    def __repr__(self) -> str:
        return sentence(self.schedule)

    def _ipython_display_(self) -> None:
        if self._shown_in is None or self._shown_in != _cell(self._shell):
            print(repr(self))


def _display(thing: Any) -> None:
    from IPython import display

    display.display(thing)  # type: ignore[no-untyped-call, unused-ignore]


def _cell(shell: Any) -> Any:
    kernel = shell.kernel
    # ipykernel 5 has one parent for all channels.
    parent = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else kernel._parent_header
    return (parent.get("header") or {}).get("msg_id")


HELP = """Save this whole session, as it is now, to be restored later.

    %checkpoint [NAME] [--note TEXT] [--pin]
    %checkpoint [--every SPAN] [--cells N] [--keep N] [--keep-hourly N]
                [--keep-daily N] | --off
    %checkpoint --list

The options of the second line set a schedule; without a name, a note or --pin
they save nothing now. With one, both happen.

Everything is saved: variables, imports, open files, threads, child processes
and the very place in the code where the session is now. It stands still for a
fraction of a second and then goes on.

NAME          a name for the checkpoint; it may have spaces
--note TEXT   a remark of at most 10,000 characters
--pin         keep it: tidying up never removes a pinned checkpoint
--list        show the checkpoints of this notebook instead of saving

--every SPAN  save by itself every 30s, 10m or 2h, also in the middle of a
              cell, but not when nothing has happened since the last time
--cells N     save by itself after every N cells
--keep N      how many automatic checkpoints stay (5); older ones are removed,
              never one that has a name, is pinned or was made by hand
--keep-hourly N, --keep-daily N
              keep besides the newest of each of the last N hours, N days
--off         no automatic checkpoints any more

Restore one from the Kernel menu of JupyterLab, or in a terminal with

    jupyter ckpt restore ID

After a restore the session goes on right here: %checkpoint returns a second
time, and says so.

    here = %checkpoint before training
    if here.restored:
        print("back again, from", here.id)

The object has .id, .name, .restored, .size_bytes, .stored_bytes and .pause_s.
Where only a schedule was set its .id is None and its .restored False.
The same from code, which raises an exception when it fails:

    ip = get_ipython()
    here = ip.checkpoint("before training", note="lr 0.1", pin=False)

Functions of yours can run just before every checkpoint and after every restore,
to close and reopen what cannot travel through time, such as a connection to a
database. They have a few seconds. What they raise is reported and stops
nothing, except ip.CheckpointRefused, which calls the checkpoint off:

    @ip.on_checkpoint
    def tidy():
        if transaction.is_open:
            raise ip.CheckpointRefused("a transaction is open")

    @ip.on_restore
    def reconnect():
        database.connect()

Ctrl-C (Interrupt) ends the wait for a checkpoint that takes too long.
"""
