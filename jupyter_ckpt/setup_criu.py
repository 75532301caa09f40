"""What ``jupyter ckpt setup`` does: C programs built, a CRIU that works in place.

Idempotent: what works is left alone. Nothing of the system is touched, and a
failure leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import native_build
from .engine.criu_fetch import fetch_criu
from .engine.criu_find import (
    CRIU_VARIABLE,
    CriuBinary,
    find_criu,
    install_folders,
    probe_criu,
)
from .engine.selftest import SelfTest, selftest
from .errors import CriuBroken, CriuMissing, ModeUnavailable, NotPossibleHere
from .privileges import Mode, decide_mode

Say = Callable[[str], None]


@dataclass
class SetUp:
    """What is in place after `set_up`, and what it had to do."""

    criu: CriuBinary
    mode: Mode
    selftest: SelfTest | None
    native: list[Path]
    fetched: bool
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "criu": self.criu.to_dict(),
            "mode": self.mode.name,
            "selftest": self.selftest.to_dict() if self.selftest else None,
            "native": [str(path) for path in self.native],
            "fetched": self.fetched,
            "warnings": self.warnings,
        }


def require_linux() -> None:
    """Raise `NotPossibleHere` on systems that cannot save processes at all."""
    if not sys.platform.startswith("linux"):
        raise NotPossibleHere(
            f"Saving processes needs Linux; this is {sys.platform}.",
            "Run Jupyter in a Linux virtual machine or container.")


def set_up(
    configured: str | None = None, *, force: bool = False, mirror: str | None = None,
    say: Say = lambda line: None,
) -> SetUp:
    """Build the C programs, find a CRIU that works here or fetch one.

    `configured` is the configuration's criu; one named there or in
    ``JUPYTER_CKPT_CRIU`` is judged but never replaced. `force` builds and
    fetches anew. Raises `NativeBuildFailed`, `CriuMissing`, `CriuBroken`, or
    `ModeUnavailable` when a forced mode cannot be had.
    """
    require_linux()
    say("checking the C programs")
    native = native_build.build(force)
    named = configured or os.environ.get(CRIU_VARIABLE)
    if named:
        return _judged(find_criu(configured), native, fetched=False)
    if not force:
        found = _working(native, say)
        if found is not None:
            return found
    folder = _install_folder()
    with _one_at_a_time(folder):
        if not force:  # another set-up may have done it meanwhile
            found = _working(native, lambda text: None)
            if found is not None:
                return found
        path = fetch_criu(folder, check=_check, mirror=mirror, say=say)
    return _judged(_first_in_line(path), native, fetched=True)


def _working(native: list[Path], say: Say) -> SetUp | None:
    """Return the present state when a criu is here and works, else None."""
    try:
        return _judged(find_criu(), native, fetched=False)
    except CriuMissing as error:
        say(error.message)
    except CriuBroken as error:
        say(error.message)
    return None


def _judged(criu: CriuBinary, native: list[Path], *, fetched: bool) -> SetUp:
    """Try `criu` for real; raises `CriuBroken` or `ModeUnavailable`."""
    mode = decide_mode(criu)
    if mode.name == "none":
        warnings = [f"No process can be saved here. {mode.why}"] if mode.rejected else []
        return SetUp(criu, mode, None, native, fetched, warnings)
    return SetUp(criu, mode, selftest(criu.path, mode.name), native, fetched)


def _check(path: Path) -> None:
    """Judge a freshly fetched criu before anything points to it."""
    criu = probe_criu(path)
    try:
        mode = decide_mode(criu)
    except ModeUnavailable:
        # A forced mode (caps needs a setcap yet to come) is no fault of this criu.
        mode = decide_mode(criu, "auto")
    if mode.name != "none":
        selftest(path, mode.name)


def _install_folder() -> Path:
    """Return the first folder for a CRIU that this user, and no other, may write."""
    problems = []
    for folder in install_folders():
        present = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(present, os.W_OK | os.X_OK):
            problems.append(f"{folder} cannot be written")
        elif not _is_private(present):
            problems.append(f"others can write to {present}")
        else:
            return folder
    raise CriuMissing(
        f"A CRIU cannot be installed: {', and '.join(problems)}.",
        "Set JUPYTER_DATA_DIR to a folder of yours, or use a Python environment of your own.")


def _is_private(folder: Path) -> bool:
    """Tell whether nobody but this user and root can change what lies in `folder`.

    In one like /tmp, where nobody touches what is another's, a folder of ours is ours.
    """
    status = folder.stat()
    others = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    return status.st_uid in (0, os.geteuid()) and (
        not status.st_mode & others or bool(status.st_mode & stat.S_ISVTX))


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, on the folder itself so that no file remains.

    A folder that does not exist is made, and removed again if it stays empty.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)  # another user may run this environment's CRIU
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
        for path in missing:
            with contextlib.suppress(OSError):  # not empty: it is in use now
                path.rmdir()


def _first_in_line(fetched: Path) -> CriuBinary:
    """Return the fetched criu; raises `CriuBroken` when another hides it."""
    found = find_criu()
    if not found.path.samefile(fetched):
        raise CriuBroken(
            f"A criu that works was installed as {fetched}, but {found.path}, which does not "
            "work, is found before it.",
            f"Remove {found.path}, or set {CRIU_VARIABLE}={fetched}.")
    return found
