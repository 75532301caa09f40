"""Acts that do not get on: people are told, and in the end the act is given up.

The freeze, criu and the kernel's answers have deadlines of their own. What is
left are disks: a read or write on one that is gone may hang for ever, and no
thread can be called back from it. The kernel runs meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import CheckpointError, DumpFailed, LaunchFailed, RestoreFailed
from ..protocol import Job

log = logging.getLogger(__name__)
_FAILED = {"restores": RestoreFailed, "launches": LaunchFailed}
HINT = "See to the disk or network that the store is on, then ask again."


@dataclass(frozen=True)
class StallWatch:
    """Watches acts; durations are in seconds, by `clock`."""

    told_after_s: float = 30.0
    given_up_after_s: float = 1800.0
    """A disk that is merely slow may take minutes over all that was not synced yet."""
    look_every_s: float = 1.0
    clock: Callable[[], float] = time.monotonic

    @contextmanager
    def over(self, job: Job, on_given_up: Callable[[CheckpointError], None]) -> Iterator[None]:
        """Look at `job` while the block carries it out.

        `on_given_up` is called, by another thread, with the error the job ends with.
        """
        ended = threading.Event()
        looking = threading.Thread(
            target=self._look, args=(job, ended, on_given_up), name="stalls", daemon=True)
        try:
            looking.start()
        except RuntimeError as error:  # no thread can be had: the act is what matters
            log.warning("%s %s is not watched: %s", job.kind, job.id, error)
            yield
            return
        try:
            yield
        finally:
            ended.set()
            looking.join()  # nothing is given up that has ended

    def _look(self, job: Job, ended: threading.Event,
              on_given_up: Callable[[CheckpointError], None]) -> None:
        moved, since, told = None, self.clock(), ""
        while not ended.wait(self.look_every_s):
            seen, now = (job.state, job.done_bytes), self.clock()
            if seen != moved or not job.at_disk:
                moved, since, told = seen, now, _untold(job, told)
            elif now - since >= self.given_up_after_s and job.give_up(
                    error := _error(job, now - since)):
                log.error("%s %s: %s", job.kind, job.id, error.message)
                on_given_up(error)
                return
            elif now - since >= self.told_after_s:
                job.phase = told = (f"nothing was read or written for {now - since:.0f} s: "
                                    "the store's disk hangs or is very slow")
        _untold(job, told)


def _untold(job: Job, told: str) -> str:
    """Take back what was told of a job, and return what is told now: nothing."""
    if told and job.phase == told:
        job.phase = ""
    return ""


def _error(job: Job, still_s: float) -> CheckpointError:
    what = f"The store's disk has neither read nor written anything for {still_s / 60:.0f} min"
    if job.kind == "restores":
        return RestoreFailed(f"{what}: the restore was given up, and nothing was touched.", HINT)
    if job.state == "verifying":
        return DumpFailed(f"{what}: the checkpoint may have been written, and cannot be read back. "
                          "The kernel goes on.", HINT)
    return DumpFailed(f"{what}: the save was given up, and the kernel goes on.", HINT)


def refusal(kind: str, first: CheckpointError) -> CheckpointError:
    """Return the error of what is asked for while an act that was given up still hangs."""
    return _FAILED.get(kind, DumpFailed)(
        f"Nothing can be done until the disk answers. {first.message}", first.hint)
