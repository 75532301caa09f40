"""One run of one verb: what it acts through, and the options every verb has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol

import click

from ..errors import StoreUnusable
from .output import Screen

if TYPE_CHECKING:
    from ..locations import Locations
    from ..manifest import Manifest
    from ..protocol import Job
    from ..record import Record
    from ..store import Store

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

        return Locations.default(store=self.store_dir)

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


def _set_store(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    ctx.ensure_object(Call).store_dir = None if value is None else value.expanduser().absolute()


def verb(name: str) -> Callable[[Callable[Concatenate[Call, P], None]], click.Command]:
    """Make a function the verb `name`: it gets the `Call`, then its own options.

    Adds ``--store`` and ``--json``, which every verb has.
    """

    def decorate(function: Callable[Concatenate[Call, P], None]) -> click.Command:
        command = click.command(name)(click.pass_obj(function))
        command.params += [
            click.Option(["--store"], type=click.Path(path_type=Path), metavar="DIR",
                         expose_value=False, callback=_set_store,
                         help="The checkpoint store (default: ckpt in Jupyter's data folder)."),
            click.Option(["--json", "as_json"], is_flag=True, expose_value=False,
                         callback=_set_json, is_eager=True,
                         help="Print one JSON document and nothing else."),
        ]
        return command

    return decorate
