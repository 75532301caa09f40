"""A user with a shell, a mode and kernels: what the session tests drive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient
from ordinary_user import CHECKOUT, NOBODY, prefix

from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.errors import CheckpointError

ANSWER_S = 60.0


class Talker:
    """A front end of one kernel: runs code and returns what it printed."""

    def __init__(self, connection_file: str, wait: bool = True) -> None:
        self.client = BlockingKernelClient(connection_file=connection_file)
        self.client.load_connection_file()
        self.client.start_channels()
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the kernel answers and its output arrives (again) here."""
        for attempt in range(5):
            try:
                self.client.wait_for_ready(timeout=20)
                return
            except RuntimeError:  # its heartbeat gives up after 1 s on a loaded machine
                if attempt == 4:
                    raise

    def run(self, code: str) -> str:
        """Run a cell; return its text output, errors included."""
        parts: list[str] = []
        self.client.execute_interactive(
            code, timeout=ANSWER_S, output_hook=lambda m: parts.append(text_of(m)))
        return "".join(parts).strip()

    def begin(self, code: str) -> str:
        """Start a cell and return its message id at once."""
        message_id: str = self.client.execute(code)
        return message_id

    def collect(self, message_id: str, until: Callable[[str], bool]) -> str:
        """Read the output of a started cell until `until` holds for all of it."""
        text, deadline = "", time.monotonic() + ANSWER_S
        while not until(text):
            assert time.monotonic() < deadline, f"only this was printed: {text!r}"
            message = self.client.get_iopub_msg(timeout=ANSWER_S)
            if message["parent_header"].get("msg_id") == message_id:
                text += text_of(message)
        return text

    def close(self) -> None:
        self.client.stop_channels()


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if message["msg_type"] == "stream":
        return str(content["text"])
    if message["msg_type"] in ("execute_result", "display_data"):
        return str(content["data"].get("text/plain", ""))
    if message["msg_type"] == "error":
        return f"{content['ename']}: {content['evalue']}"
    return ""


class Shell:
    """A user's shell in one privilege mode, with a Jupyter home of its own."""

    def __init__(self, mode: str, home: Path, criu: Path) -> None:
        self.mode, self.home, self.criu = mode, home, criu
        self.store = home / "data" / "ckpt"
        self.python = sys.executable
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8",
            "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTER_CONFIG_DIR": str(home / "config"), "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CKPT_MODE": mode, "JUPYTER_CKPT_CRIU": str(criu),
            "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg",
        }
        if "PYTHONPATH" in os.environ:  # a checkout other than the installed one is tested
            self.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self._prefix = prefix() if mode != "root" and os.geteuid() == 0 else []

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._prefix, *argv], env=self.environment, cwd=self.home, text=True,
            capture_output=True, stdin=subprocess.DEVNULL, timeout=200, check=False)

    def ckpt(self, *words: str) -> Any:
        """Run ``jupyter ckpt`` with --json; return the document, fail on an error."""
        code, found = self.outcome(*words)
        assert code == 0, f"{words}: exit {code}: {found}"
        return found

    def refused(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run ``jupyter ckpt`` expecting an error; return (exit code, error)."""
        code, found = self.outcome(*words)
        assert code != 0, f"{words} succeeded: {found}"
        return code, found["error"]

    def outcome(self, *words: str) -> tuple[int, Any]:
        """Run ``jupyter ckpt`` with --json; return (exit code, document)."""
        done = self.run(self.python, "-m", "jupyter_ckpt.cli.main", words[0], "--json",
                        *words[1:])
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None

    def start(self) -> dict[str, Any]:
        started: dict[str, Any] = self.ckpt("start")
        return started

    def stop_all(self) -> None:
        for row in self.ckpt("ps"):
            self.ckpt("stop", row["kernel_id"])


@contextmanager
def shell_in(mode: str) -> Iterator[Shell]:
    """Give a shell in `mode`; skip where this machine cannot offer it."""
    if mode != "rootless" and os.geteuid() != 0:
        pytest.skip(f"only root can test {mode} mode")
    try:
        criu = find_criu().path
    except CheckpointError as error:
        pytest.skip(error.message)
    # Not pytest's own folder, which others may not enter, and short: see sun_path.
    top = Path(tempfile.mkdtemp(prefix="ckpt-", dir="/var/tmp"))
    try:
        top.chmod(0o755)
        home = top / "home"
        home.mkdir()
        criu = Path(shutil.copy(criu.resolve(), top / "criu"))
        if mode == "caps":
            give_capabilities(criu)
        if mode != "root" and os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
        shell = Shell(mode, home, criu)
        try:
            yield shell
        finally:
            shell.stop_all()
    finally:
        shutil.rmtree(top, ignore_errors=True)


def give_capabilities(criu: Path) -> None:
    """Give a criu binary the two capabilities that caps mode needs."""
    setcap = shutil.which("setcap", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if setcap is None:
        pytest.fail("setcap is missing: install libcap2-bin, as 'make test' does")
    subprocess.run([setcap, "cap_checkpoint_restore,cap_setpcap+eip", str(criu)], check=True)


__all__ = ["CHECKOUT", "Shell", "Talker", "give_capabilities", "shell_in"]
