"""Paths and checkpoints as people write them."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..manifest import Manifest


def spelled(manifest: Manifest) -> str:
    """Return what to type in a shell for a checkpoint: its name, else the id's beginning."""
    return shlex.quote(manifest.name or manifest.id[:8])


def present_folder() -> str | None:
    """Return the working folder, None when it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def shown_path(path: str | None) -> str:
    """Return `path` as short as it stays clear: relative below here, else with ``~``."""
    if not path:
        return ""
    here, home = present_folder(), os.path.expanduser("~")
    if here is not None and path.startswith(here.rstrip("/") + "/"):
        return os.path.relpath(path, here)
    if home != "/" and path.startswith(home.rstrip("/") + "/"):
        return "~" + path[len(home.rstrip("/")):]
    return path


def is_below(path: str, folder: str) -> bool:
    """Tell whether `path` lies in `folder`, as it is spelled or with links followed.

    A link in the folder may lead anywhere, and is in it all the same.
    """
    spelled_root = os.path.abspath(os.path.expanduser(folder))
    root = os.path.realpath(spelled_root)
    # Behind a link, ".." means something else than it says.
    spelled_path = path if os.path.isabs(path) and ".." not in path.split("/") else None
    return any(os.path.commonpath([base, one]) == base
               for base, one in ((spelled_root, spelled_path), (root, spelled_path),
                                 (root, os.path.realpath(path))) if one is not None)
