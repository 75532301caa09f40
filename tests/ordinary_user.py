"""Run code as a user without any privilege, from tests that run as root."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jupyter_ckpt

NOBODY = 65534
CHECKOUT = Path(jupyter_ckpt.__file__).resolve().parent.parent


class OrdinaryUser:
    """A user with a home folder that everybody may look into."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(CHECKOUT),
                "PYTHONDONTWRITEBYTECODE": "1", **extra}

    def run(self, *argv: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, with `extra` environment variables."""
        return subprocess.run(
            [*prefix(), *argv], env=self.environment(**extra), cwd=self.home,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)

    def python(self, code: str, *words: str, **extra: str) -> Any:
        """Run `code`, which prints JSON, as this user; return what it printed."""
        done = self.run(sys.executable, "-c", code, *words, **extra)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def prefix() -> list[str]:
    """Return the argv that turns root into the ordinary user for what follows it.

    Where the checkout lies in a folder only root may enter, the user sees it at
    its own path all the same, in a mount namespace made for that. A test is
    skipped where the checkout itself is closed, as one made under umask 077 is.
    """
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    needed = {CHECKOUT, Path(sys.base_prefix).resolve()}
    if shut := [path for path in needed if not path.stat().st_mode & stat.S_IXOTH]:
        pytest.skip(f"other users cannot read {shut[0]} (umask 077?): 'chmod -R o+rX' it")
    closed = [(path, top) for path in needed if (top := _closed_ancestor(path))]
    if not closed:
        return become
    opened = "".join(f'exec {fd}<"{path}"\n' for fd, (path, _) in enumerate(closed, 7))
    covered = "".join(f'mount -t tmpfs -o mode=755 tmpfs "{top}"\n'
                      for top in sorted({top for _, top in closed}))
    shown = "".join(f'mkdir -p "{path}" && mount -c --bind /proc/self/fd/{fd} "{path}"\n'
                    for fd, (path, _) in enumerate(closed, 7))
    script = f'set -e\n{opened}{covered}{shown}exec 7<&- 8<&-\nexec "$@"'
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *become]


def _closed_ancestor(path: Path) -> Path | None:
    """Return the first folder on the way to `path` that others may not enter."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """Yield such a user; skip the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(prefix="ckpt-user-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        own = home / "home"
        own.mkdir(mode=0o700)
        os.chown(own, NOBODY, NOBODY)
        user = OrdinaryUser(own)
        probe = user.run(sys.executable, "-c", "import jupyter_ckpt.doctor")
        if probe.returncode != 0:
            pytest.skip("this Python or the checkout cannot be read by other users: "
                        + probe.stderr.strip().splitlines()[-1])
        yield user
