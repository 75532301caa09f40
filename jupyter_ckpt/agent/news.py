"""What an agent's acts come to, told line by line to whoever listens.

A listener hears of saves that nobody else tells it of: those of ``%checkpoint``, of
schedules and of other programs. And the end of its line tells that the agent died.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable

from .jobs import JobTable

PROGRESS_EVERY_S = 0.2


class News:
    """Tells of the jobs of one table; nobody wakes up while nothing happens."""

    def __init__(self, jobs: JobTable) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._bells: set[int] = set()
        self._ended = False
        jobs.on_change = self._ring

    def tell(self, listener: socket.socket, send: Callable[[bytes], object]) -> None:
        """Send a JSON line for each job that begins, gets on or ends, from now on.

        Returns when `listener` hangs up, or after `end`. What `send` raises ends it, too.
        """
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._lock:
            self._bells.add(bell)
        try:
            self._tell(listener, send, bell)
        finally:
            with self._lock:
                self._bells.remove(bell)
            os.close(bell)

    def end(self) -> None:
        """End every line: the agent ends."""
        self._ended = True
        self._ring()

    def _ring(self) -> None:
        with self._lock:
            for bell in self._bells:
                os.eventfd_write(bell, 1)

    def _tell(self, listener: socket.socket, send: Callable[[bytes], object], bell: int) -> None:
        waiting = select.poll()
        waiting.register(listener, select.POLLIN)
        waiting.register(bell, select.POLLIN)
        told = {(job.kind, job.id): b"" for job in self._jobs.all() if job.finished}
        while not self._ended:
            present = {(job.kind, job.id): job for job in self._jobs.all()}
            told = {key: line for key, line in told.items() if key in present}
            going_on = False
            for key, job in present.items():
                if told.get(key) == b"":
                    continue  # its end was told
                # Asked before it is described: an end in between is told in the next round.
                finished = job.finished
                line = json.dumps(job.to_dict()).encode() + b"\n"
                if line != told.get(key):
                    send(line)
                told[key] = b"" if finished else line
                going_on = going_on or not finished
            ready = dict(waiting.poll(PROGRESS_EVERY_S * 1000 if going_on else None))
            if listener.fileno() in ready:
                return  # a listener says nothing: it has hung up
            if bell in ready:
                os.eventfd_read(bell)
