"""One run of one verb: what it acts through, and the options every verb has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

import click

from ..errors import StoreUnusable, UsageError
from .output import Screen

if TYPE_CHECKING:
    from ..configuration import Configuration
    from ..locations import Locations
    from ..manifest import Manifest
    from ..protocol import Job
    from ..record import Record
    from ..store import Store

_KERNEL = ("KERNEL is a kernel id (or its first 4 or more characters), a notebook, "
           "or a connection file.")
_ID = "ID is a checkpoint's id, its first 4 or more digits, or its name."
MEANINGS = {"kernel": _KERNEL, "checkpoint": _ID, "checkpoints": _ID}
"""What to say of an argument below the help of every verb that takes it."""
P = ParamSpec("P")
OnProgress = Callable[["Job"], None]


class Agent(Protocol):
    """What the verbs need of `jupyter_ckpt.client.AgentClient`."""

    def cancel(self, kind: str, request_id: str) -> Job: ...


class Kernels(Protocol):
    """What the verbs need of `jupyter_ckpt.kernels`; tests hand in their own."""

    def list_kernels(self, loc: Locations) -> list[dict[str, Any]]: ...

    def find_kernel(self, loc: Locations, text: str | None) -> Record: ...

    def launch(
        self, loc: Locations, *, kernel_id: str, kernel_name: str, cmd: Sequence[str],
        env: dict[str, str], cwd: str, connection_file: str, language: str,
        notebook: str | None = None, request_id: str | None = None,
    ) -> Record: ...

    def save(
        self, loc: Locations, record: Record, *, name: str | None = None,
        note: str | None = None, pin: bool = False, trigger: str = "manual",
        request_id: str | None = None, on_progress: OnProgress | None = None,
    ) -> Manifest: ...

    def live_agent(self, loc: Locations, record: Record) -> Agent: ...

    def restore(
        self, loc: Locations, manifest: Manifest, *, kernel_id: str, in_place: bool,
        files: str | None = None, notebook: str | None = None, wait_s: float | None = None,
        on_progress: OnProgress | None = None, request_id: str | None = None,
    ) -> dict[str, Any]: ...

    def fork(
        self, loc: Locations, record: Record, n: int = 1, on_progress: OnProgress | None = None,
        on_request: Callable[[str, str, str], None] | None = None,
    ) -> list[dict[str, Any]]: ...

    def take_back(
        self, loc: Locations, kernel_id: str, kind: str, request_id: str
    ) -> bool: ...

    def schedule(
        self, loc: Locations, record: Record, changes: dict[str, Any] | None = None,
    ) -> dict[str, Any]: ...

    def stop(self, loc: Locations, record: Record) -> None: ...


class Call:
    """One run of one verb: how it answers, where things are, what it acts through."""

    def __init__(self, screen: Screen, kernels: Kernels | None = None) -> None:
        self.screen = screen
        self.store_dir: Path | None = None
        """What ``--store`` names, None without it."""
        self._kernels = kernels

    @property
    def kernels(self) -> Kernels:
        """The functions that act on kernels, loaded when the first is needed."""
        if self._kernels is None:
            from .. import kernels

            self._kernels = kernels
        return self._kernels

    @functools.cached_property
    def locations(self) -> Locations:
        from ..locations import Locations

        return Locations.default(store=self.store_dir or self.configuration.store)

    @functools.cached_property
    def configuration(self) -> Configuration:
        """What Jupyter's configuration files say; raises `UsageError` for a broken one."""
        from ..configuration import Configuration

        return Configuration.load()

    def locations_of(self, record: Record) -> Locations:
        """Return where to save a kernel: into its agent's own store, without ``--store``.

        So a server that was started with another store finds the checkpoint.
        """
        if self.store_dir is not None or record.store is None:
            return self.locations
        return replace(self.locations, store_dir=Path(record.store))

    @functools.cached_property
    def store(self) -> Store:
        """The store, open. Made when it is missing, unless ``--store`` names it.

        Raises `StoreUnusable` when it cannot be used, or when a folder named
        with ``--store`` does not exist: a typing mistake must not look like
        an empty store.
        """
        from ..store import Store

        if self.store_dir is not None and not self.store_dir.exists():
            raise StoreUnusable(f"There is no checkpoint store at {self.store_dir}.",
                                "Check the folder given with --store.")
        return Store.open(self.locations.store_dir)

    def new_store(self) -> Store:
        """Open the store, made where it is missing, even one that ``--store`` names."""
        from ..store import Store

        return Store.open(self.locations.store_dir)


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.ensure_object(Call).screen.as_json = value


def _set_store(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None and not value.strip():
        # An unset variable of a script; as a path it would be the present folder.
        raise UsageError("The folder given with --store is empty.", "Name one, or leave it out.")
    ctx.ensure_object(Call).store_dir = (
        None if value is None else Path(value).expanduser().absolute())


def verb(name: str) -> Callable[[Callable[Concatenate[Call, P], None]], click.Command]:
    """Make a function the verb `name`: it gets the `Call`, then its own options.

    Adds ``--store`` and ``--json``, which every verb has.
    """

    def decorate(function: Callable[Concatenate[Call, P], None]) -> click.Command:
        @functools.wraps(function)
        def configured(call: Call, *args: P.args, **kwargs: P.kwargs) -> None:
            call.configuration.tell_agents()
            function(call, *args, **kwargs)

        command = click.command(name)(click.pass_obj(configured))
        named = {p.name for p in command.params if isinstance(p, click.Argument)}
        command.epilog = "\n\n".join(text for each, text in MEANINGS.items() if each in named)
        command.params += [
            click.Option(["--store"], type=click.Path(), metavar="DIR",
                         expose_value=False, callback=_set_store,
                         help="The checkpoint store (default: the configured one, else ckpt in "
                              "Jupyter's data folder)."),
            click.Option(["--json", "as_json"], is_flag=True, expose_value=False,
                         callback=_set_json, is_eager=True,
                         help="Print one JSON document and nothing else."),
        ]
        return command

    return decorate
