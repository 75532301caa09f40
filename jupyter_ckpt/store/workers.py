"""Work spread over a few threads; hashing, compression and I/O run without the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

WORKERS = 2
Progress = Callable[[int], None]
"""Called with the number of bytes done since the last call; what it raises ends the work."""

Job = TypeVar("Job", contravariant=True)


class Worker(Protocol[Job]):
    """Does one job after the other in one thread, with buffers of its own."""

    def work(self, job: Job) -> int:
        """Do `job`; return the number of bytes it stood for."""

    def close(self) -> None:
        """Release buffers and descriptors."""


class Crew:
    """A few workers that empty one list of jobs; the first error ends them all."""

    def __init__(self, on_progress: Progress | None) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def run(self, jobs: Iterator[Job], hire: Callable[[], Worker[Job]], count: int = WORKERS
            ) -> None:
        """Have every job done by one of `count` workers; the caller's thread is one of them.

        Raises what the first failing job, or `on_progress`, raised, after all
        threads have ended.
        """
        others = [threading.Thread(target=self._serve, args=(jobs, hire), name=f"store-{n}",
                                   daemon=True) for n in range(1, count)]
        for thread in others:
            thread.start()
        self._serve(jobs, hire)
        try:
            for thread in others:
                thread.join()
        except BaseException as interrupt:  # Ctrl-C: the others stop at their next job
            self._error = self._error or interrupt
            for thread in others:
                thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _serve(self, jobs: Iterator[Job], hire: Callable[[], Worker[Job]]) -> None:
        try:
            worker = hire()
            try:
                while (job := self._next(jobs)) is not None:
                    self._report(worker.work(job))
            finally:
                worker.close()
        except BaseException as error:  # carried to run(), which raises it
            with self._lock:
                self._error = self._error or error

    def _next(self, jobs: Iterator[Job]) -> Job | None:
        with self._lock:
            return None if self._error is not None else next(jobs, None)

    def _report(self, done_bytes: int) -> None:
        if self._on_progress is not None:
            with self._lock:
                self._on_progress(done_bytes)
