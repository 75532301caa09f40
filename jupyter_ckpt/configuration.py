"""What Jupyter's configuration files say about store and criu, without a server.

The server extension reads its options as traits; whoever acts without a server
(the command line, a provisioner elsewhere) reads the same files here, so that
both look at one store and use one criu.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_path

from .engine.criu_find import CRIU_VARIABLE
from .errors import UsageError

SECTION = "CheckpointApp"
OWN_FILE = "jupyter_ckpt_config"
FILES = (OWN_FILE, "jupyter_config", "jupyter_server_config")
"""The later wins, as in a server: its own configuration goes over an extension's."""


@dataclass(frozen=True)
class Configuration:
    """Options of ``CheckpointApp`` that matter outside of a server; "" is the default."""

    store_dir: str = ""
    criu: str = ""

    @classmethod
    def load(cls) -> Configuration:
        """Return what the configuration files say.

        Raises `UsageError`, naming the file, for one that cannot be read or
        that gives an option another type.
        """
        found: dict[str, str] = {}
        for path in _files():
            section = _section(path)
            for option in ("store_dir", "criu"):
                if option in section:
                    found[option] = _text(section[option], option, path)
        return cls(**found)

    @property
    def store(self) -> Path | None:
        return Path(self.store_dir).expanduser() if self.store_dir else None

    def tell_agents(self) -> None:
        """Put the criu where `find_criu` and the agents started from here find it."""
        if self.criu:
            os.environ[CRIU_VARIABLE] = self.criu


def _files() -> Iterator[Path]:
    """Yield the files that exist, the most important last (folders, then .py before .json)."""
    folders = [Path(folder) for folder in reversed(jupyter_config_path())]
    for name in FILES:
        for folder in folders:
            for ending in (".py", ".json"):
                path = folder / f"{name}{ending}"
                if path.is_file():
                    yield path


def _section(path: Path) -> dict[str, Any]:
    from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

    loader = PyFileConfigLoader if path.suffix == ".py" else JSONFileConfigLoader
    try:
        # Such a file is a program: what it prints is no part of our answer.
        with contextlib.redirect_stdout(sys.stderr):
            config = loader(path.name, path=str(path.parent)).load_config()
        section = config.get(SECTION, {})
        if not isinstance(section, dict):
            raise TypeError(f"{SECTION} is no group of options")
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(
            f"Jupyter's configuration file {path} cannot be read: {type(error).__name__}"
            f"{f' ({reason})' if reason else ''}.",
            "Correct or move that file; Jupyter servers read it, too.") from error
    return section


def _text(value: object, option: str, path: Path) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{SECTION}.{option} in {path} is no text.",
                         "Give a path in quotes, or remove the line.")
    return value
