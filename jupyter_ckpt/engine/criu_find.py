"""Find the criu program: what the user named, else the places of `PLACES`.

1. the configuration, 2. ``JUPYTER_CKPT_CRIU``, 3. where ``jupyter ckpt setup``
puts it: ``<sys.prefix>/share/jupyter/ckpt/criu`` and ``ckpt-criu/criu`` in the
Jupyter data directories, 4. PATH. A criu named in 1 or 2 is used or refused,
never silently replaced; of the others the first that runs is taken.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir, jupyter_path

from ..errors import CriuBroken, CriuMissing

CRIU_VARIABLE = "JUPYTER_CKPT_CRIU"
VERSION_TIMEOUT_S = 20.0
SETUP_HINT = "Run `jupyter ckpt setup`, which fetches a CRIU that works."

_VERSION = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class CriuBinary:
    """A criu program that starts here; whether it works, `selftest` tells."""

    path: Path
    version: str

    def to_dict(self) -> dict[str, str]:
        return {"path": str(self.path), "version": self.version}


def find_criu(configured: str | None = None) -> CriuBinary:
    """Return the criu to use.

    `configured` is the configuration's path, empty or None when unset. Raises
    `CriuBroken` when the one that was named, or every one that was found, does
    not start, and `CriuMissing` when there is none.
    """
    for path, origin in ((configured, "the configuration"),
                         (os.environ.get(CRIU_VARIABLE), CRIU_VARIABLE)):
        if path:
            return _named(path, origin)
    first_error: CriuBroken | None = None
    for candidate in _places():
        if not candidate.exists():
            continue
        try:
            return probe_criu(candidate)
        except CriuBroken as error:
            first_error = first_error or error
    if first_error is not None:
        raise first_error
    raise CriuMissing("The program `criu`, which saves processes, is not installed here.",
                      SETUP_HINT)


def probe_criu(path: Path) -> CriuBinary:
    """Start `path` to learn its version; raises `CriuBroken` when it does not."""
    try:
        stamp = path.stat()
    except OSError as error:
        raise CriuBroken(f"{path} cannot be used as criu: {error.strerror}.", SETUP_HINT) from error
    return CriuBinary(path, _version(str(path), stamp.st_mtime_ns, stamp.st_size))


def install_folders() -> list[Path]:
    """Return where `setup` may put a CRIU, best first: none is the system's."""
    found = [Path(jupyter_data_dir(), "ckpt-criu")]
    if sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir():
        found.insert(0, Path(sys.prefix, "share", "jupyter", "ckpt"))
    return found


def _named(path: str, origin: str) -> CriuBinary:
    hint = f"Correct or remove the path in {origin}; without it {SETUP_HINT[0].lower()}" \
           f"{SETUP_HINT[1:]}"
    full = Path(path).expanduser()
    if not full.exists():
        raise CriuMissing(f"There is no criu at {path}, which {origin} names.", hint)
    try:
        return probe_criu(full.absolute())
    except CriuBroken as error:
        raise CriuBroken(f"{error.message} ({origin} names it.)", hint) from error


def _places() -> Iterator[Path]:
    yield Path(sys.prefix, "share", "jupyter", "ckpt", "criu")
    for folder in jupyter_path():
        yield Path(folder, "ckpt-criu", "criu")
    # Debian's criu lies in /usr/sbin, which is not on an ordinary user's PATH.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    found = shutil.which("criu", path=search)
    if found:
        yield Path(found)


@functools.lru_cache(maxsize=16)
def _version(path: str, _mtime_ns: int, _size: int) -> str:
    """Return what ``criu --version`` says; asked once for each state of the file."""
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise CriuBroken(f"{path} is not an executable file.", SETUP_HINT)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=VERSION_TIMEOUT_S, check=False,
        )
    except OSError as error:
        raise CriuBroken(f"{path} does not start: {error.strerror}.", SETUP_HINT) from error
    except subprocess.TimeoutExpired as error:
        raise CriuBroken(
            f"{path} did not tell its version within {VERSION_TIMEOUT_S:.0f} s.", SETUP_HINT
        ) from error
    match = _VERSION.search(done.stdout)
    if done.returncode != 0 or match is None:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise CriuBroken(f"{path} does not work as criu: {reason}.", SETUP_HINT)
    return match.group(1)
