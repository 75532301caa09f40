"""Copies of our C programs that stay where they are when the package is upgraded.

A session has ``ckpt-box`` and the shim mapped for all its life, and a restore
needs the very same files under the same paths: another version would make every
older checkpoint worthless. So a session is started from copies in folders that
are named by their content, which nothing replaces and nobody removes. And every
checkpoint holds those that its session uses, should they be gone all the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .engine.criu_find import install_folders
from .native_build import native_path

log = logging.getLogger(__name__)


def lasting_path(name: str) -> Path:
    """Return the lasting copy of the product `name`, made now if there is none.

    Where none can be made: the program itself. Raises `NativeMissing`.
    """
    program = native_path(name)
    data = program.read_bytes()
    for folder in _folders():
        path = folder / _digest(data) / name
        try:
            if not _holds(path, data):
                _write(path, data)
        except OSError as error:
            log.debug("no lasting copy of %s in %s: %s", name, folder, error)
        else:
            return path
    log.warning("%s has no lasting copy: an upgrade will make checkpoints worthless", program)
    return program


def is_lasting(path: str) -> bool:
    """Tell whether `path` is where such a copy is kept by this user."""
    return Path(path).parent.parent in _folders()


def put_back(path: str, read: Callable[[], bytes]) -> None:
    """Make a lasting copy anew that is gone; `read` gives its content.

    Nothing is written elsewhere, and no other content than the path names: a
    later check of the session's files then says what is missing.
    """
    if os.path.exists(path) or not is_lasting(path):
        return
    data = read()
    if Path(path).parent.name != _digest(data):
        return
    try:
        _write(Path(path), data)
    except OSError as error:
        log.warning("%s cannot be put back: %s", path, error)


def _folders() -> list[Path]:
    # Resolved: as the system tells what a process runs.
    return [(folder / "programs").resolve() for folder in install_folders()]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    # Others may run it, too: what a session starts under another user, for example.
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            os.fchmod(handle, 0o755)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
