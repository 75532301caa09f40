"""Run code as a user without any privilege, from tests that run as root."""

from __future__ import annotations

import json
import os
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
            argv, user=NOBODY, group=NOBODY, extra_groups=[], env=self.environment(**extra),
            cwd=self.home, capture_output=True, text=True, timeout=200, check=False)

    def python(self, code: str, *words: str, **extra: str) -> Any:
        """Run `code`, which prints JSON, as this user; return what it printed."""
        done = self.run(sys.executable, "-c", code, *words, **extra)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


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
