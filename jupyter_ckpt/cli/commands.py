"""``jupyter ckpt``: the command group, and how every failure leaves it.

Verbs live in one file each and load what they need when they run, so that
help and usage errors come at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import CheckpointError, UsageError
from .call import MEANINGS, Call, Kernels
from .output import Screen
from .places import present_folder
from .streams import lost_output, take_streams

SECTIONS: dict[str, dict[str, str]] = {
    "Sessions": {
        "save": "save:save",
        "list": "list:list_checkpoints",
        "show": "show:show",
        "restore": "restore:restore",
        "fork": "fork:fork",
        "schedule": "schedule:schedule",
    },
    "Kernels": {
        "ps": "ps:ps",
        "start": "start:start",
        "stop": "stop:stop",
    },
    "Checkpoints": {
        "rename": "rename:rename",
        "pin": "pin:pin",
        "unpin": "pin:unpin",
        "rm": "rm:rm",
        "gc": "gc:gc",
        "verify": "verify:verify",
        "quota": "quota:quota",
        "encrypt": "encrypt:encrypt",
    },
    "Set-up": {
        "setup": "setup:setup",
        "doctor": "doctor:doctor",
    },
}
_VERBS = {name: target for verbs in SECTIONS.values() for name, target in verbs.items()}

_EPILOG = f"""\
{MEANINGS["kernel"]}

{MEANINGS["checkpoint"]}

\b
Exit codes: 0 done, 2 usage, 3 not found, 4 not possible here, 5 saving
failed, 6 restore refused or failed, 7 integrity, 74 done, but the output could
not be written, 130 interrupted.
"""


class Verbs(click.Group):
    """The group of all verbs; a verb's file is loaded when it is looked at."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _VERBS.get(cmd_name)
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # click itself would write an empty line

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(section):
                formatter.write_dl([(name, command.get_short_help_str(64))
                                    for name, command in found if command is not None])


cli = Verbs(
    name="jupyter ckpt",
    help="Save whole running Jupyter sessions, and bring them back.\n\n"
         "A checkpoint holds everything a kernel is: variables, threads, child processes, "
         "open files, and the cell that is running.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
click.version_option(__version__, prog_name="jupyter ckpt")(cli)


def run(words: list[str], kernels: Kernels | None) -> int:
    """Run one command line and return its exit code.

    `kernels` stands for `jupyter_ckpt.kernels`, unless it is None.
    """
    take_streams()
    # A guess until the options are read, for mistakes found while reading them.
    screen = Screen(as_json="--json" in words)
    try:
        code = _answer(words, screen, kernels)
        return screen.end(code, lost_output())
    except BrokenPipeError:
        # Whoever read the output has left; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _answer(words: list[str], screen: Screen, kernels: Kernels | None) -> int:
    """Run one verb and report how it failed; return the exit code. Raises `BrokenPipeError`."""
    try:
        result = cli.main(words, prog_name="jupyter ckpt", standalone_mode=False,
                          obj=Call(screen, kernels))
        return result if type(result) is int else 0
    except CheckpointError as error:
        screen.fail(error)
        return error.exit_code
    except click.ClickException as error:
        return _report_click(screen, error)
    except (click.Abort, KeyboardInterrupt):
        screen.fail_with({"code": 130, "id": "interrupted", "message": "Interrupted.", "hint": ""})
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report_unexpected(screen, error)


def _report_unexpected(screen: Screen, error: Exception) -> int:
    """Report what nobody thought of; return the exit code. Raises it when debugging."""
    if (isinstance(error, FileNotFoundError) and error.filename is None  # no file: the folder
            and present_folder() is None):
        screen.fail(UsageError(
            "The present folder is gone, and a relative path means nothing without it.",
            "Go to another folder ('cd'), or give paths that begin with '/'."))
        return UsageError.exit_code
    if os.environ.get("JUPYTER_CKPT_DEBUG") == "1":
        raise error
    message = f"Something unexpected went wrong: {type(error).__name__}: {error}"
    screen.fail_with({"code": 1, "id": "unexpected", "message": " ".join(message.split()),
                      "hint": "Run it again with JUPYTER_CKPT_DEBUG=1 to see the traceback."})
    return 1


def _report_click(screen: Screen, error: click.ClickException) -> int:
    """Report a mistake in the command line itself; return the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and not screen.as_json:
        error.show()
        return 2
    path = "jupyter ckpt"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
    message = error.format_message() or "A command is missing."
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        message = "A command is missing."
    message = message if message.endswith((".", "?")) else f"{message}."
    screen.fail(UsageError(message, f"'{path} --help' shows what it takes."))
    return 2
