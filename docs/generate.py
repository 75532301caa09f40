"""Write the reference pages that follow from the code: ``python docs/generate.py``.

``docs/reference/cli.md`` comes from the commands themselves, ``errors.md`` from
the error tree, ``rest.md`` from routes and event schema, ``configuration.md``
from the traits, ``manifest.md`` from the manifest's fields,
``what-cannot-be-saved.md`` from the preflight's list. ``--check`` writes nothing
and exits 1 when a page is not what the code says; a test does the same.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import click
import yaml

from jupyter_ckpt import errors, native_build
from jupyter_ckpt.cli.commands import SECTIONS, cli
from jupyter_ckpt.cli.ps import STATES
from jupyter_ckpt.engine.unsupported import ALL_MODES, UNSUPPORTED
from jupyter_ckpt.errors import CheckpointError, error_classes
from jupyter_ckpt.handlers import ROUTES, CheckpointHandler
from jupyter_ckpt.manifest import ENCRYPTED_FORMAT, FORMAT, PLAIN_FORMAT, Manifest
from jupyter_ckpt.provisioner import CheckpointProvisioner
from jupyter_ckpt.server.events import SCHEMA_ID, SCHEMA_PATH
from jupyter_ckpt.serverext import CheckpointApp

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
    if name == "ps":
        parts.append(_states())
    if name in _JSON:
        parts.append(f"With `--json`: {_JSON[name]}\n")
    return "\n".join(parts)


def _states() -> str:
    """Return the table of what ``ps`` says of a kernel's state."""
    rows = [f"| `{state}` | {meaning} |" for state, meaning in STATES.items()]
    return "\n".join(["| state | meaning |", "|---|---|", *rows, ""])


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
KERNEL is a kernel id (or its first 4 or more characters), a notebook, or a connection
file; of one in Jupyter's runtime folder the name is enough. ID is a checkpoint's id, its
first 4 or more digits, or its name. What fits several is refused (`ambiguous-id`), and so
is an empty text (`malformed-id`).

The store is that of `--store`, else that of the [configuration](configuration.md). `save`
and `fork` without `--store` use the store of the kernel's own agent, so that the server
that started the kernel finds the checkpoint.

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
| `JUPYTER_CKPT_KEY_FILE` | the key file of an encrypted store, instead of the remembered one |
| `JUPYTER_CKPT_DEBUG` | `1` shows the traceback of an unexpected error |
| `NO_COLOR` | set to anything: no colours |
"""

_MANIFEST = "the checkpoint's manifest"
_JSON = {
    "save": f"{_MANIFEST}.",
    "list": "a list of manifests, newest first.",
    "show": f"{_MANIFEST}.",
    "schedule": "`{kernel_id, every_s, cells, keep, keep_hourly, keep_daily, next_due_s, "
                "last_automatic}`; `last_automatic` is null or `{at, id, error}`.",
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
    "quota": "`{quota_bytes, used_bytes}`; `quota_bytes` is null without a quota.",
    "encrypt": "`{store, key_file}`.",
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
Three exit codes have no class: 130 after an interrupt (Ctrl-C); 74 where everything was done,
but standard output could not be written, as on a full disk: standard error then says so, also
with `--json`, and names what was made; and 1 for a mistake in jupyter_ckpt itself, or where
whoever read the output has left.
"""


_MODULES_WITH_ERRORS = (errors.__name__, native_build.__name__)


def _add_rows(cls: type[CheckpointError], depth: int, rows: list[str]) -> None:
    known = error_classes()
    if known.get(cls.message_id) is cls:
        meaning = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
        indent = "&nbsp;&nbsp;" * depth
        rows.append(f"| {indent}`{cls.__name__}` | `{cls.message_id}` | {cls.exit_code} "
                    f"| {cls.http_status} | {meaning} |")
    for child in (c for c in cls.__subclasses__() if c.__module__ in _MODULES_WITH_ERRORS):
        _add_rows(child, depth + 1, rows)


# -- rest.md ---------------------------------------------------------------------

_HTTP_VERBS = ("get", "post", "patch", "put", "delete")
_GROUP = r"([^/]+)"
_ANSWERS = {
    "GET doctor": "200: what `jupyter ckpt doctor --json` prints.",
    "GET kernels": "200: what `jupyter ckpt ps --json` prints.",
    "POST kernels/<kernel_id>/checkpoints": "202: a job.",
    "GET kernels/<kernel_id>/running":
        "200: `{busy, running, recent}`. `running` is null or `{msg_id, cell_id, session, "
        "execution_count, code, outputs, partial, forgotten, display_ids, message_ids}`; `recent` "
        "lists the last cells likewise. Long outputs are not kept whole: `partial` are the indices "
        "of those in `outputs`, `forgotten` is how many came before them. "
        "All are null or empty for kernels of other languages than Python.",
    "GET kernels/<kernel_id>/schedule":
        "200: `{kernel_id, every_s, cells, keep, keep_hourly, keep_daily, next_due_s, "
        "last_automatic}`. What belongs to a schedule is null without one, `next_due_s` is null "
        "unless it goes by time; `last_automatic` is null or `{at, id, error}` with either `id` "
        "or `error` null.",
    "PUT kernels/<kernel_id>/schedule": "200: what GET answers.",
    "POST kernels/<kernel_id>/fork":
        "200: a list of `{kernel_id, connection_file, notebook, session}`.",
    "GET jobs/<job_id>": "200: a job.",
    "GET checkpoints": "200: a list of [manifests](manifest.md).",
    "GET checkpoints/<id>": "200: a [manifest](manifest.md).",
    "PATCH checkpoints/<id>": "200: the changed [manifest](manifest.md).",
    "DELETE checkpoints/<id>": "204, without a body.",
    "GET offers": "200: a list of `{kernel_id, notebook, ended_at, how, checkpoint, "
                  "checkpoint_created_at}`; `checkpoint` is null for a session that had none.",
    "DELETE offers/<kernel_id>": "204, without a body; 404 when there is no such offer.",
    "GET checkpoints/<id>/notebook": "200: the notebook document (nbformat JSON); 404 without one.",
    "POST checkpoints/<id>/restore":
        "200, when the kernel lives: `{kernel_id, connection_file, server_url, notebook, session, "
        "warnings, running}`. `notebook` is the path as the server spells it. `path` names the "
        "notebook in place of whose kernel the checkpoint is restored, or under whose name a new "
        "one is made; one that is there stays, and the new one lies beside it. Without `kernel_id` "
        "and `path` it is the checkpoint's own kernel, or that of its notebook. `wait_s` is for "
        "how many seconds ports of the session are waited for that the system still holds (null: "
        "70; 0: no waiting).",
}
_REST_INTRODUCTION = """\
All paths are below `/api/ckpt/` of a Jupyter server. Every route needs an
authenticated user who is authorised for the resource `checkpoints`; as for all of
Jupyter, requests of a browser carry the `_xsrf` cookie's value. Bodies and answers
are JSON. `<id>` is a checkpoint's id, its first 4 or more digits, or its name;
`<kernel_id>` is the whole id.

A failure is `{"message", "error": {"code", "id", "message", "hint"}}` with the HTTP
status that [errors](errors.md) lists. A field that is unknown or has the wrong type
is refused with 400, and nothing is done.

A job is `{id, kind, kernel_id, state, phase, progress: {done_bytes, total_bytes},
result, error, warnings}`. `state` ends as `done` (`result` is the manifest) or
`failed` (`error` says why). `request_id`, 8 to 64 characters of `[A-Za-z0-9_-]` that the
caller chooses, makes a save safe to repeat: the same id never saves twice and always answers
the same job.
"""


def rest_page() -> str:
    """Return the page about the routes and events of the server extension."""
    parts = [_NOTICE, "# REST interface\n", _REST_INTRODUCTION]
    for pattern, handler in ROUTES:
        path = _route_path(pattern)
        for verb in _HTTP_VERBS:
            if verb in vars(handler):
                parts.append(_route(verb, path, handler))
    return "\n".join([*parts, _events()])


def _route_path(pattern: str) -> str:
    path = pattern.removeprefix("api/ckpt/")
    for start, name in (("kernels/", "kernel_id"), ("jobs/", "job_id"),
                        ("offers/", "kernel_id"), ("checkpoints/", "id")):
        path = path.replace(start + _GROUP, f"{start}<{name}>")
    return path


def _route(verb: str, path: str, handler: type[CheckpointHandler]) -> str:
    method = inspect.unwrap(vars(handler)[verb])
    title = f"{verb.upper()} {path}"
    said = inspect.cleandoc(method.__doc__ or handler.__doc__ or "").splitlines()[0]
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    rows = [f"| `{name}` | {kind} |" for name, kind in _body_fields(tree)]
    table = ["| field of the body | type |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {title}\n", f"{said}\n", *table, f"Answers {_ANSWERS[title]}\n"])


def _body_fields(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (name, type) of each field that a handler's call of ``self.body`` allows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.body":
            for keyword in node.keywords:
                kinds = [_JSON_TYPES[part] for part in re.findall(
                    r"type\(None\)|\w+", ast.unparse(keyword.value))]
                yield str(keyword.arg), " or ".join(dict.fromkeys(kinds))


_JSON_TYPES = {"str": "string", "int": "number", "bool": "true or false", "type(None)": "null",
               "float": "number"}


def _events() -> str:
    schema = yaml.safe_load(SCHEMA_PATH.read_text(encoding="utf-8"))
    rows = []
    for name, rule in schema["properties"].items():
        kind = " or ".join(f"`{each}`" for each in rule["enum"]) if "enum" in rule else rule["type"]
        always = "always" if name in schema["required"] else ""
        rows.append(f"| `{name}` | {kind} | {always} | {rule['description']} |")
    return "\n".join([
        "## Events\n",
        f"Jupyter's event stream (`/api/events/subscribe`) carries events of the schema\n"
        f"`{SCHEMA_ID}`.\n",
        "| field | type | present | meaning |", "|---|---|---|---|", *rows, ""])


# -- what-cannot-be-saved.md -------------------------------------------------------

_UNSUPPORTED_INTRODUCTION = """\
Before every save, and before anything is stopped, the session's processes are looked through.
What CRIU cannot save is named with the process and the descriptor or mapping that it belongs to
(error `cannot-be-saved`, exit code 5), and the session goes on untouched. Process ids are those
that `ps` outside of the session shows; the kernel's own process is called "the kernel itself", and
ended by ending what uses the thing in the notebook, or by restarting the kernel. The tests try
these things with CRIU itself; [what is saved](../explanation/what-is-saved.md) is the other side.
"""


def unsupported_page() -> str:
    """Return the page about what stands in the way of a save."""
    rows = []
    for each in UNSUPPORTED.values():
        modes = "every" if each.modes == ALL_MODES else ", ".join(
            f"`{mode}`" for mode in ("root", "rootless", "caps") if mode in each.modes)
        rows.append(f"| {each.what.format('...')} | {modes} "
                    f"| {each.advise('...', 'end process N (NAME)', 'N')} |")
    return "\n".join([_NOTICE, "# What cannot be saved\n", _UNSUPPORTED_INTRODUCTION,
                      "| a process | mode | what to do |", "|---|---|---|", *rows, ""])


# -- configuration.md ------------------------------------------------------------

_CONFIGURATION_INTRODUCTION = """\
Set these in `jupyter_server_config.py` (`c.CheckpointApp.on_shutdown = "leave-running"`),
or, for a server only, on its command line
(`jupyter lab --CheckpointApp.on_shutdown=leave-running`).

`jupyter ckpt` reads `store_dir` and `criu` from the same files, so that server and command
line look at one store and use one criu: `jupyter_ckpt_config`, `jupyter_config` and
`jupyter_server_config`, each `.py` and `.json`, in Jupyter's configuration folders
(`jupyter --paths`). The later in this list wins. A file that cannot be read ends `jupyter
ckpt` with exit code 2; a server warns and goes on. The other options are for servers.

The store is the first of these:

1. `--store` of the command, or `--CheckpointApp.store_dir` of a server;
2. for `jupyter ckpt save` and `fork`: the store of the kernel's own agent, which is that of
   whoever started the kernel;
3. `CheckpointApp.store_dir` in the configuration files;
4. the folder `ckpt` in Jupyter's data folder (`JUPYTER_DATA_DIR`).

What a server was told on its command line, only that server knows: give `jupyter ckpt list`
and the like the same folder with `--store` then.
"""
_ENVIRONMENT = """\
## Environment variables

| variable | effect |
|---|---|
| `JUPYTER_DATA_DIR` | holds the store, in its folder `ckpt` |
| `JUPYTER_RUNTIME_DIR` | holds connection files and, in its folder `ckpt`, the running kernels |
| `JUPYTER_CONFIG_DIR` | holds the configuration files |
| `JUPYTER_CKPT_CRIU` | the criu program to use, unless the configuration names one; \
`setup` judges it and never replaces it |
| `JUPYTER_CKPT_MODE` | `auto`, `root`, `rootless`, `caps` or `none`: forces a privilege mode |
| `JUPYTER_CKPT_FILE_LIMIT` | files open for writing are saved up to this size: `500M`, `4G` \
(powers of 1000), `4GiB` (powers of 1024), or `0` for none (default: `4G`). With a value that is \
no size, each checkpoint has a warning, and the default holds |
| `JUPYTER_CKPT_SAVE_BELOW_MEMORY` | what `save_below_memory` is for kernels of a server, \
for all others (default: `5%`) |
| `JUPYTER_CKPT_KEEP` | what `keep`, `keep_hourly` and `keep_daily` are for kernels of a server, \
for all others: JSON, as `{"keep": 3, "keep_daily": 7}` |
| `JUPYTER_CKPT_KEY_FILE` | the key file of an encrypted store, instead of the remembered one |
| `JUPYTER_CKPT_DEBIAN_MIRROR` | the Debian mirror from which `setup` fetches CRIU |
| `JUPYTER_CKPT_DEBUG` | `1` shows the traceback of an unexpected error of the command line |

These are for tests and for jupyter_ckpt itself; setting them by hand helps nobody.

| variable | effect |
|---|---|
| `JUPYTER_CKPT_CHROMIUM` | the Chromium of `make test`, instead of the one that it installs |
| `JUPYTER_CKPT_FAULTS` | makes a process die or stop at a named place |
| `JUPYTER_CKPT_RUNTIME` | tells a kernel that starts where its agent's socket is |
| `JUPYTER_CKPT_USER_STARTUP` | keeps the user's own `PYTHONSTARTUP` meanwhile |
| `JUPYTER_CKPT_SHM_HIDDEN` | in caps mode: the folder in `/dev/shm` that a kernel does not see |

## One kernelspec

A `kernel.json` says no for its own kernels with
`"metadata": {"jupyter_ckpt": {"enabled": false}}`. A kernelspec that names a
provisioner of its own keeps that one, and its kernels cannot be saved.
"""


def configuration_page() -> str:
    """Return the page about traits and environment variables."""
    parts = [_NOTICE, "# Configuration\n", _CONFIGURATION_INTRODUCTION]
    for cls in (CheckpointApp, CheckpointProvisioner):
        said = inspect.cleandoc(cls.__doc__ or "").splitlines()[0]
        rows = [_trait(name, trait) for name, trait in cls.class_own_traits(config=True).items()]
        parts.append("\n".join([f"## {cls.__name__}\n", f"{said}\n",
                                "| option | values | default | effect |", "|---|---|---|---|",
                                *rows, ""]))
    return "\n".join([*parts, _ENVIRONMENT])


def _trait(name: str, trait: Any) -> str:
    values = getattr(trait, "values", None)
    kind = " ".join(f"`{v}`" for v in values) if values else type(trait).__name__
    return f"| `{name}` | {kind} | `{trait.default_value!r}` | {' '.join(trait.help.split())} |"


# -- manifest.md -----------------------------------------------------------------

_FIELDS = {
    "id": "16 lower-case hex digits",
    "created_at": "when it was saved, UTC, ISO 8601 with milliseconds",
    "kernel": "`{id, name, language, execution_count, busy, running}`; `running` is null or "
              "`{msg_id, cell_id, session, execution_count}`. What only the part inside the "
              "kernel knows is null for other languages than Python",
    "content": "blake3 hash of the list of files and chunks: the signature covers every byte",
    "format": f"{PLAIN_FORMAT}, or {ENCRYPTED_FORMAT} in an encrypted store; a newer one is "
              "refused, an older one is read",
    "name": "the name given by a person, or null",
    "note": "a remark, or null",
    "pinned": "whether it is kept until it is removed by hand",
    "parent": "id of the checkpoint this kernel was last saved to or restored from, or null",
    "trigger": "who asked: `manual` (command line), `magic`, `api` (server, fork, the copy made "
               "before a restore in place), `shutdown` and `cull` (the server, before it "
               "ended the kernel), or the kernel's schedule: `interval` and `cell`",
    "engine": "`process`; `variables` is reserved",
    "mode": "privilege mode of the kernel: `root`, `rootless` or `caps`",
    "notebook": "`{path, sha256}` of the document saved along, or null. In an encrypted store "
                "`sha256` is an HMAC-SHA256 with a key of the store: equal for equal "
                "documents, and no hash of the file",
    "processes": "list of `{pid, ppid, name, rss_bytes}`; pids as the session sees them",
    "memory_bytes": "bytes of memory in the checkpoint, pages shared by processes counted in each",
    "stored_bytes": "bytes this checkpoint added to the store",
    "pause_s": "seconds the session stood still, by CRIU's own clock",
    "duration_s": "seconds from the request until the store began to publish it",
    "files": "list of `{path, role, saved, size_bytes, mtime_ns, mode, uid, gid, content}` of "
             "files the session had open. `role` is `write`, `append`, `read`, `history`, or "
             "`beside` (of a SQLite database that was open, but not open itself); only those "
             "with `saved` are in the checkpoint, under the name `content`. The files of one "
             "database have the database's path as their `group`; the first of them lists in "
             "`absent` those that did not exist. Older checkpoints have the hash of what was "
             "saved here, as `blake3`",
    "host": "`{hostname, machine, kernel_release, cpu_model, boot_id, uid, gid, groups, "
            "criu_version}`",
    "warnings": "sentences for a person",
    "parked": "whether its kernel was ended right after this save: opening its notebook brings "
              "the session back",
    "purpose": "why it was made by itself: `before-restore` (the state that a restore in place "
               "replaced), `fork`, `pressure` (memory ran short; in older "
               "checkpoints a trigger), or null",
}


def manifest_page() -> str:
    """Return the page about the manifest."""
    rows = []
    for field in fields(Manifest):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        rows.append(f"| `{field.name}` | `{field.type}` | {'' if optional else 'yes'} "
                    f"| {_FIELDS[field.name]} |".replace(" | None`", " \\| None`"))
    return "\n".join([_NOTICE, "# Manifest\n", _MANIFEST_INTRODUCTION,
                      "| field | type | required | meaning |", "|---|---|---|---|", *rows, ""])


_MANIFEST_INTRODUCTION = f"""\
A manifest is what one checkpoint is: the JSON that `save`, `show` and `list` print with
`--json`, and that the server answers. Sizes are bytes, times seconds. Format
{PLAIN_FORMAT} is that of plain checkpoints, {ENCRYPTED_FORMAT} that of those in an
[encrypted store](../how-to/encrypt-the-store.md); formats up to {FORMAT} are read. On disk it
stands in `manifests/<id>.json` together with its signature: see
[the store](../explanation/store-format.md).
"""

PAGES = {"cli.md": cli_page, "errors.md": errors_page, "rest.md": rest_page,
         "configuration.md": configuration_page, "manifest.md": manifest_page,
         "what-cannot-be-saved.md": unsupported_page}


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
