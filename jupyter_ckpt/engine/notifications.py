"""The agent's side of CRIU's action script (native/box.c, ``ckpt-notify``).

CRIU starts the script when all images are written and the tree still stands
still. The script connects here and waits for one byte: ``k`` to go on, anything
else, or the end of the connection, to give the dump up. So a dead agent never
holds a frozen tree.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

SOCKET_NAME = "notify.sock"


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
        self, process: subprocess.Popen[bytes], while_frozen: Callable[[], None]
    ) -> Exception | None:
        """Answer until `process` (criu) has ended; return what `while_frozen` raised."""
        failure: Exception | None = None
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                ready, _, _ = select.select([self._socket.fileno(), ended], [], [])
                if self._socket.fileno() not in ready:
                    process.wait()
                    return failure
                script, _ = self._socket.accept()
                with script:
                    failure = self._answer(script, while_frozen)
        finally:
            os.close(ended)

    @staticmethod
    def _answer(script: socket.socket, while_frozen: Callable[[], None]) -> Exception | None:
        script.recv(64)
        try:
            while_frozen()
        except Exception as error:
            script.sendall(b"n")
            return error
        script.sendall(b"k")
        return None
