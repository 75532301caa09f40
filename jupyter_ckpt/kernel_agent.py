"""The kernel agent's program: ``python -m jupyter_ckpt.kernel_agent``.

Started by `jupyter_ckpt.client.start_agent`, once for each kernel. It returns
to its caller when the socket listens, and goes on as a process of its own that
belongs to nobody: the death of a server does not touch it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from .agent import heap
from .agent.core import Agent
from .agent.logfile import LogFile
from .agent.server import AgentServer
from .agent.tools import Tools, finish_removals
from .agent_place import Place, take
from .client import AgentClient
from .errors import AgentUnreachable, CheckpointError
from .faults import point
from .private import private_folder
from .protocol import SOCKET_NAME

EMPTY_AGENT_ENDS_AFTER_S = 60.0
REMOVAL_DEADLINE_S = 30.0
QUEUE_DEADLINE_S = 9.0
"""For requests that are still queued when an agent ends; without a kernel they fail at once."""
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
    private_folder(folder.parent)
    place = take(folder, AgentClient(folder).answers)
    if place is None:
        return 0  # another was quicker, and serves
    private_folder(folder)
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
        place.name_holder()
        _serve(folder, tools, told, place)
    except BaseException as error:
        log.exception("the agent ends")
        os.write(told, str(error).encode()[:4000])
    finally:
        logging.shutdown()
        os._exit(0)


def _plug_streams(log_path: Path) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    logging.basicConfig(level=logging.INFO, handlers=[LogFile(log_path)],
                        format="%(asctime)s %(levelname)s %(message)s")


def _serve(folder: Path, tools: Tools, told: int, place: Place) -> None:
    heap.tame()
    ended = threading.Event()
    agent = Agent(tools, folder, ended.set, place.is_ours)
    server = AgentServer(folder, agent)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Nobody stops the serving but the end of the process: no need to wake up and look.
    threading.Thread(target=server.serve_forever, args=(3600,), name="http", daemon=True).start()
    server.routes.scheduler.start()
    point("agent.listening")
    os.write(told, b"ready")
    os.close(told)
    log.info("serving kernel %s", folder.name)
    # Woken rarely on purpose: an idle agent costs nothing.
    while not ended.wait(EMPTY_AGENT_ENDS_AFTER_S):
        if agent.kernel is None and server.routes.jobs.idle:
            break
    # A kernel has ended while it was being stored, say: its last state is worth the wait.
    server.routes.jobs.await_running()
    deadline = time.monotonic() + QUEUE_DEADLINE_S
    while not server.routes.jobs.idle and time.monotonic() < deadline:
        time.sleep(0.01)
    server.routes.news.end()
    server.lines.await_none(timeout_s=2)
    server.socket.close()
    if place.is_ours():
        (folder / SOCKET_NAME).unlink(missing_ok=True)
        agent.clear_folder()
    place.leave()
    finish_removals(REMOVAL_DEADLINE_S)


if __name__ == "__main__":
    sys.exit(main())
