"""What one fuzz input may not do: raise, hang, leave its folder, or leak."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from jupyter_ckpt.errors import CheckpointError

MOST_CPU_S = 2.0
MOST_GROWTH_BYTES = 96 << 20
MOST_MEMORY_BYTES = 3 << 30
MOST_DESCRIPTORS = 40
"""Beyond those at the start: half requests keep some connections open for a while."""
LEAKS_EVERY = 2000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,),
            "os.symlink": (1,), "os.link": (1,), "os.truncate": (0,), "os.chmod": (0,),
            "os.chown": (0,), "shutil.rmtree": (0,), "shutil.move": (0, 1)}


class Broken(BaseException):
    """An input did what none may; no ``except Exception`` can swallow it."""


class Watch:
    """Runs inputs in a folder of their own and tells what is wrong with one."""

    def __init__(self) -> None:
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="ckpt-fuzz-", dir=base)).resolve()
        self.inside = self.folder / "inside"
        self.inside.mkdir(mode=0o700)
        self.count = self.refused = 0
        self._watching = False
        self._outside: str | None = None
        self._start: tuple[int, int] | None = None
        limit = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, limit))
        signal.signal(signal.SIGPROF, _too_long)
        sys.addaudithook(self._audit)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, act: Callable[[bytes], None], data: bytes) -> None:
        """Run one input; raise `Broken` with what was wrong."""
        self.count += 1
        self._outside, self._watching = None, True
        signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
        try:
            act(data)
        except CheckpointError as error:
            self.refused += 1
            if not error.message.strip() or len(error.message) > 2000:
                raise Broken(f"a message of {len(error.message)} characters") from error
        except Broken:
            raise
        except BaseException as error:
            raise Broken(f"{type(error).__name__}: {str(error)[:300]}") from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._watching = False
        if self._outside:
            raise Broken(self._outside)
        if self.count % LEAKS_EVERY == 0:
            self.check_leaks()

    def check_leaks(self) -> None:
        """Raise `Broken` when descriptors or memory grow, or something lies outside."""
        present = len(os.listdir("/proc/self/fd")), _resident_bytes()
        if self._start is None:
            self._start = present
        if present[0] > self._start[0] + MOST_DESCRIPTORS:
            raise Broken(f"{present[0] - self._start[0]} descriptors leaked")
        if present[1] > self._start[1] + MOST_GROWTH_BYTES:
            raise Broken(f"memory grew by {(present[1] - self._start[1]) >> 20} MiB")
        if os.listdir(self.folder) != ["inside"]:
            raise Broken(f"files outside: {os.listdir(self.folder)}")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open":
            if isinstance(arguments[2], int) and arguments[2] & _WRITES:
                self._check(event, arguments[0])
        elif event in _CHANGES:
            for place in _CHANGES[event]:
                self._check(event, arguments[place])

    def _check(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        if not name.startswith("/"):  # below an open folder, or the working one
            if ".." in name.split("/"):
                self._outside = f"{event} {name!r}"
        elif not (os.path.normpath(name) + "/").startswith((f"{self.inside}/", "/dev/null/",
                                                            "/proc/self/fd/")):
            self._outside = f"{event} {name!r} outside"


def _too_long(number: int, frame: FrameType | None) -> None:
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "?"
    raise Broken(f"more than {MOST_CPU_S:g} s of processor time, in {where}")


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
