"""Write the reference pages that follow from the code: ``python docs/generate.py``.

``docs/reference/cli.md`` comes from the commands themselves, ``errors.md``
from the error tree. ``--check`` writes nothing and exits 1 when a page is not
what the code says; a test does the same.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from jupyter_ckpt.cli.main import SECTIONS, cli
from jupyter_ckpt.errors import CheckpointError, error_classes

REFERENCE = Path(__file__).parent / "reference"
_NOTICE = "<!-- Written by docs/generate.py; change the code, not this page. -->\n"


def cli_page() -> str:
    """Return the page about the command line."""
    context = click.Context(cli, info_name="jupyter ckpt")
    parts = [_NOTICE, "# Command line\n", _paragraphs(cli.help), _overview(context), _CONVENTIONS]
    for section, names in SECTIONS.items():
        parts.append(f"## {section}\n")
        parts += [_verb(context, name) for name in names]
    return "\n".join(parts)


def _overview(context: click.Context) -> str:
    rows = ["| | command | does |", "|---|---|---|"]
    for section, names in SECTIONS.items():
        for name in names:
            first = name == next(iter(names))
            help_text = _command(context, name).get_short_help_str(limit=200)
            rows.append(f"| {f'**{section}**' if first else ''} "
                        f"| [`{name}`](#jupyter-ckpt-{name}) | {help_text} |")
    return "\n".join(rows) + "\n"


def _command(context: click.Context, name: str) -> click.Command:
    command = cli.get_command(context, name)
    assert command is not None, name
    return command


def _verb(context: click.Context, name: str) -> str:
    """Return the section of one verb: how it is written, what it does, its options."""
    command = _command(context, name)
    inner = click.Context(command, parent=context, info_name=name)
    usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
    rows = ["| option | effect |", "|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option):
            rows.append(f"| `{_spelling(option)}` | {_effect(option)} |")
    parts = [f"### jupyter ckpt {name}\n", f"```text\n{usage}\n```\n",
             _paragraphs(command.help), "\n".join(rows) + "\n"]
    if name in _JSON:
        parts.append(f"With `--json`: {_JSON[name]}\n")
    return "\n".join(parts)


def _spelling(option: click.Option) -> str:
    value = ""
    if isinstance(option.type, click.Choice):
        value = " " + "\\|".join(str(choice) for choice in option.type.choices)
    elif not option.is_flag:
        value = f" {option.metavar}"
    return ", ".join(option.opts) + value


def _effect(option: click.Option) -> str:
    default = f" Default: `{option.default}`." if option.show_default else ""
    return " ".join((option.help or "").split()) + default


def _paragraphs(text: str | None) -> str:
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs) + "\n"


_CONVENTIONS = """\
KERNEL is a kernel id (or its beginning), a notebook, or a connection file. ID is a
checkpoint's id, its first 4 or more digits, or its name.

## What every command has in common

With `--json`, which stands after the verb, standard output is exactly one JSON
document. An error is the document `{"error": {"code", "id", "message", "hint"}}`,
and `code` is also the exit code; [errors](errors.md) lists all of them. Without
it, standard output carries the ids and tables a script could want, and standard
error the talk around them. A progress bar is drawn on standard error when that
is a terminal. Sizes in JSON are bytes, times are seconds or UTC ISO 8601.

| variable | effect |
|---|---|
| `JUPYTER_DATA_DIR` | holds the store, in its folder `ckpt` |
| `JUPYTER_RUNTIME_DIR` | holds connection files and, in its folder `ckpt`, the running kernels |
| `JUPYTER_CKPT_CRIU` | the criu program to use |
| `JUPYTER_CKPT_MODE` | `auto`, `root`, `rootless`, `caps` or `none`: forces a privilege mode |
| `JUPYTER_CKPT_DEBUG` | `1` shows the traceback of an unexpected error |
| `NO_COLOR` | set to anything: no colours |
"""

_MANIFEST = "the checkpoint's manifest"
_JSON = {
    "save": f"{_MANIFEST}.",
    "list": "a list of manifests, newest first.",
    "show": f"{_MANIFEST}.",
    "restore": "`{kernel_id, connection_file, server_url, notebook, warnings}`; `server_url` "
               "is null without a server.",
    "fork": "a list of `{kernel_id, connection_file}`.",
    "ps": "a list of `{kernel_id, name, notebook, pid, state, memory_bytes, mode, "
          "last_checkpoint}`.",
    "start": "`{kernel_id, connection_file}`.",
    "stop": "`{stopped}`, the kernel's id.",
    "rename": f"{_MANIFEST}.",
    "pin": f"{_MANIFEST}.",
    "unpin": f"{_MANIFEST}.",
    "rm": "`{removed}`, a list of ids.",
    "gc": "`{removed_chunks, removed_bytes}`.",
    "verify": "`{checked, bad: [{id, reason}]}`.",
    "setup": "what was found or made: `{criu, mode, ...}`.",
    "doctor": "`{process, mode, criu: {path, version}, problems}` and more.",
}


def errors_page() -> str:
    """Return the page about the errors: a row for each class, as a tree."""
    rows: list[str] = []
    _add_rows(CheckpointError, 0, rows)
    return "\n".join([_NOTICE, "# Errors\n", _ERRORS_INTRODUCTION,
                      "| error | id | exit code | HTTP status | meaning |", "|---|---|---|---|---|",
                      *rows, "", _OTHER_CODES])


_ERRORS_INTRODUCTION = """\
Every failure that can be explained is one of these. The exit code is that of
`jupyter ckpt`, the HTTP status that of the server's `/api/ckpt/` routes and of
the agent; the id is the same everywhere and made for programs. Each error has a
message (what failed, on what) and mostly a hint (what to do next).
"""

_OTHER_CODES = """\
Two exit codes have no class: 130 after an interrupt (Ctrl-C), and 1 for a mistake
in jupyter_ckpt itself.
"""


def _add_rows(cls: type[CheckpointError], depth: int, rows: list[str]) -> None:
    known = error_classes()
    if known.get(cls.message_id) is cls:
        meaning = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
        indent = "&nbsp;&nbsp;" * depth
        rows.append(f"| {indent}`{cls.__name__}` | `{cls.message_id}` | {cls.exit_code} "
                    f"| {cls.http_status} | {meaning} |")
    for child in (c for c in cls.__subclasses__() if c.__module__ == cls.__module__):
        _add_rows(child, depth + 1, rows)


PAGES = {"cli.md": cli_page, "errors.md": errors_page}


def main(check: bool = False) -> int:
    """Write every page, or with `check` only compare; return the exit code."""
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale and check:
        print(f"Out of date: {', '.join(stale)}. Run: python docs/generate.py", file=sys.stderr)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
