"""The agent's side of CRIU's action script (native/box.c, ``ckpt-notify``).

CRIU starts the script when all images are written and the tree still stands
still. The script connects here and waits for a word: ``k`` to go on, ``n`` to
give the dump up; every ``w`` tells that we are still at work. Ten seconds
without any, or the end of the connection, give the dump up, too: neither a dead
agent nor one that hangs keeps a tree frozen.

The work is done in a thread of its own, and ``w`` is sent only when it has got
on since the last one. So work that hangs (a file system that is gone) ends the
freeze as well.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import DumpFailed
from ..procfs import readable
from .holders import LOOK_EVERY_S, Watch

SOCKET_NAME = "notify.sock"
SILENCE_S = 10.0
"""How long ``ckpt-notify`` waits for the next sign of life."""
MOST_FROZEN_S = 600.0
"""How long the work of one freeze may take, however well it gets on."""

Measure = Callable[[], object]


class Notifications:
    """The listening socket of one dump, in `folder` beside the script's link."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SOCKET_NAME
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Notifications:
        self._path.unlink(missing_ok=True)
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            # By way of the folder's descriptor: a socket's path is at most 107 bytes.
            self._socket.bind(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
        finally:
            os.close(folder)
        self._socket.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def serve(
        self, process: subprocess.Popen[bytes], while_frozen: Callable[[], None],
        progress: Measure, watch: Watch,
    ) -> Exception | None:
        """Answer until `process` (criu) has ended; return what went wrong on our side.

        `progress` measures `while_frozen`: another value means that it gets on.
        """
        failure: Exception | None = None
        work: _Work | None = None
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                waiting = self._socket.fileno() if work is None else work.finished
                ready = readable([waiting, ended], LOOK_EVERY_S)
                if waiting in ready and work is None:
                    # First the work: all that is done before it adds to the pause.
                    work = _Work(self._socket.accept()[0], while_frozen, progress)
                    watch.look(may_rest=True)
                elif waiting in ready and work is not None:
                    failure, work = work.answer(), None
                elif ended in ready:
                    process.wait()
                    return failure if work is None else work.abandon()
                else:
                    watch.look(may_rest=work is not None)
                    if work is not None:
                        work.show_life()
        finally:
            os.close(ended)


class _Work:
    """One call of `while_frozen` in a thread, and the script that waits for its end."""

    def __init__(self, script: socket.socket, do: Callable[[], None], progress: Measure) -> None:
        script.settimeout(SILENCE_S)
        self._script, self._do, self._progress = script, do, progress
        self._failure: Exception | None = None
        self._since = time.monotonic()
        self._seen: object = None
        self.finished, self._told = os.pipe()
        """Readable when the work has ended."""
        threading.Thread(target=self._run, name="frozen", daemon=True).start()

    def _run(self) -> None:
        try:
            self._script.recv(64)  # or its word could come when we have gone, and fail
            self._do()
        except Exception as error:
            self._failure = error
        finally:
            os.close(self._told)

    def show_life(self) -> None:
        """Tell the script that the work gets on, if it does."""
        seen = self._progress()
        if seen != self._seen and time.monotonic() - self._since < MOST_FROZEN_S:
            self._seen = seen
            self._send(b"w")

    def answer(self) -> Exception | None:
        """Let the script go on, or give the dump up; return what the work raised."""
        self._send(b"n" if self._failure is not None else b"k")
        self._close()
        return self._failure

    def abandon(self) -> Exception:
        """Return why criu ended before the work did; the thread ends whenever it can."""
        self._close()
        return DumpFailed(
            "Copying the session's open files did not end in time, so the checkpoint was given up.",
            "Look for files on a disk or network that does not answer.")

    def _send(self, word: bytes) -> None:
        with suppress(OSError):  # it has given up already: criu's status tells
            self._script.sendall(word)

    def _close(self) -> None:
        self._script.close()
        os.close(self.finished)
