"""Running a function where it belongs: on the main thread, if that is free."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

START_WITHIN_S = 1.0


class Act:
    """One call with its outcome; whoever claims it first runs it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._claim = threading.Lock()
        self._started = threading.Event()
        self._done = threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run the function unless somebody has begun to."""
        if not self._claim.acquire(blocking=False):
            return
        self._started.set()
        try:
            self.value = self._function()
        except BaseException as error:  # a hook may raise SystemExit, or be interrupted
            self.error = error
        finally:
            self._done.set()

    def has_started(self, within_s: float) -> bool:
        return self._started.wait(within_s)

    def is_done(self, within_s: float) -> bool:
        return self._done.wait(within_s)


def in_thread(function: Callable[[], Any], timeout_s: float) -> Act:
    """Run `function` in a thread of its own and wait at most `timeout_s`.

    The thread is left behind when it takes longer: see `Act.is_done`.
    """
    act = Act(function)
    _spawn(act)
    act.is_done(timeout_s)
    return act


def _spawn(act: Act) -> None:
    thread = threading.Thread(target=act.run, name="jupyter_ckpt_act", daemon=True)
    hide_from_debugger(thread)
    thread.start()


def hide_from_debugger(thread: threading.Thread) -> None:
    """Keep debugpy from stopping `thread` at a breakpoint."""
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
    thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]


class MainThread:
    """The kernel's main thread: idle in its loop, in a cell, or waiting in %checkpoint."""

    def __init__(self, kernel: Any, is_busy: Callable[[], bool]) -> None:
        self._kernel = kernel
        self._is_busy = is_busy
        self._desks: list[Callable[[Act], None]] = []

    def open_desk(self, accept: Callable[[Act], None]) -> None:
        """Called by a main thread that waits: hand it acts through `accept`."""
        self._desks.append(accept)

    def close_desk(self, accept: Callable[[Act], None]) -> None:
        self._desks.remove(accept)

    def run(self, function: Callable[[], Any], timeout_s: float) -> Act:
        """Run `function` and wait at most `timeout_s` for its end.

        On the main thread when that is idle or waits in ``%checkpoint``; in a
        thread of its own when a cell runs or the main thread does not react.
        """
        act = Act(function)
        desk = self._desks[-1] if self._desks else None
        if desk is not None:
            desk(act)
        elif not self._is_busy():
            loop = getattr(self._kernel, "io_loop", None)
            if loop is not None:
                loop.add_callback(act.run)
        else:
            _spawn(act)
        if not act.has_started(min(START_WITHIN_S, timeout_s)):
            _spawn(act)
        act.is_done(timeout_s)
        return act
