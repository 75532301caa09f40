"""The kernel agent's program: ``python -m jupyter_ckpt.kernel_agent``.

Started by `jupyter_ckpt.client.start_agent`, once for each kernel. It returns
to its caller when the socket listens, and goes on as a process of its own that
belongs to nobody: the death of a server does not touch it.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from .agent.core import Agent
from .agent.server import AgentServer
from .agent.tools import Tools
from .errors import AgentUnreachable, CheckpointError
from .protocol import SOCKET_NAME

EMPTY_AGENT_ENDS_AFTER_S = 60.0
LOCK_DEADLINE_S = 15.0
log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Serve one kernel; return 0 in the caller once the socket listens."""
    parser = argparse.ArgumentParser(prog="jupyter-ckpt-agent")
    parser.add_argument("--folder", type=Path, required=True, help="the kernel's runtime folder")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--connections", type=Path, required=True)
    options = parser.parse_args(argv)
    os.umask(0o077)
    try:
        return _start(options.folder, Tools(options.folder.parent, options.store,
                                            options.connections))
    except CheckpointError as error:
        print(error.message, file=sys.stderr)
        return 1


def _start(folder: Path, tools: Tools) -> int:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    ready, told = os.pipe()
    if os.fork() > 0:
        os.close(told)
        word = os.read(ready, 4096)
        if word != b"ready":
            reason = word.decode() or "no reason given"
            raise AgentUnreachable(f"The agent did not start: {reason}.")
        return 0
    os.setsid()
    os.chdir("/")
    _plug_streams(folder / "agent.log")
    try:
        _serve(folder, tools, told, lock)
    except BaseException as error:
        log.exception("the agent ends")
        os.write(told, str(error).encode()[:4000])
    finally:
        logging.shutdown()
        os._exit(0)


def _lock(folder: Path) -> int:
    """Take the one agent's place beside `folder`; raise if another has it.

    An agent that is about to end is waited for.
    """
    path = folder.parent / f".{folder.name}.lock"
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while time.monotonic() < deadline:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before us removed the file when it ended: ours must be the new one.
            if _is(handle, path):
                return handle
        except BlockingIOError:
            time.sleep(0.02)
        os.close(handle)
    raise AgentUnreachable(
        f"Another agent holds kernel {folder.name} and does not let go.",
        "'jupyter ckpt ps' shows it.")


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _plug_streams(log_path: Path) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    out = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(null)
    os.close(out)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


def _serve(folder: Path, tools: Tools, told: int, lock: int) -> None:
    ended = threading.Event()
    agent = Agent(tools, folder, ended.set)
    server = AgentServer(folder, agent)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Nobody stops the serving but the end of the process: no need to wake up and look.
    threading.Thread(target=server.serve_forever, args=(3600,), name="http", daemon=True).start()
    server.routes.scheduler.start()
    os.write(told, b"ready")
    os.close(told)
    log.info("serving kernel %s", folder.name)
    # Woken rarely on purpose: an idle agent costs nothing.
    while not ended.wait(EMPTY_AGENT_ENDS_AFTER_S):
        if agent.kernel is None and server.routes.jobs.idle:
            break
    deadline = time.monotonic() + 5
    while not server.routes.jobs.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    server.drain(timeout_s=2)
    server.socket.close()
    (folder / SOCKET_NAME).unlink(missing_ok=True)
    agent.clear_folder()
    (folder.parent / f".{folder.name}.lock").unlink(missing_ok=True)
    os.close(lock)


if __name__ == "__main__":
    sys.exit(main())
