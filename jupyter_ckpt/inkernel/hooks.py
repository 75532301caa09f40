"""The user's functions that run before a checkpoint and after a restore."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from .failures import is_refusal, one_line
from .mainthread import MainThread
from .silence import Deadline

_here = threading.local()


def inside_hook() -> bool:
    """Tell whether the calling thread is just running a hook."""
    return bool(getattr(_here, "inside", False))


class Refusal(Exception):
    """A hook said no; its words."""


class Hooks:
    """Functions without arguments, in the order they were given."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._hooks: list[Callable[[], Any]] = []

    def add(self, hook: Callable[[], Any]) -> Callable[[], Any]:
        """Register `hook` and return it, so that this works as a decorator.

        A function of the same module and name replaces its predecessor, so that
        running a cell twice does not run its hook twice.
        """
        if not callable(hook):
            raise TypeError(f"on_{self.phase} wants a function without arguments.")
        if inspect.iscoroutinefunction(hook):
            raise TypeError(f"on_{self.phase} wants a plain function, not an async one: "
                            "it has to be done when the call returns.")
        self._hooks = [known for known in self._hooks if not _same(known, hook)]
        self._hooks.append(hook)
        return hook

    def remove(self, hook: Callable[[], Any]) -> None:
        """Forget `hook`; nothing happens when it is not known."""
        self._hooks = [known for known in self._hooks if known is not hook]

    def run(self, where: MainThread, seconds: float) -> list[str]:
        """Run every hook, all within `seconds`, and return what went wrong.

        Raises `Refusal` when a hook raises `CheckpointRefused`. A hook that takes
        too long is left running; the ones after it are not started.
        """
        deadline, warnings = Deadline(seconds), []
        hooks = list(self._hooks)
        for number, hook in enumerate(hooks):
            act = where.run(functools.partial(_marked, hook), deadline.left_s(0.1))
            name = _name(hook)
            if not act.is_done(0):
                left = len(hooks) - number - 1
                also = f"; {left} more not started" if left else ""
                warnings.append(
                    f"on_{self.phase} hook {name} did not end within {seconds:g} s{also}.")
                break
            if act.error is not None:
                if is_refusal(act.error):
                    raise Refusal(str(act.error) or f"{name} refused the checkpoint.")
                warnings.append(f"on_{self.phase} hook {name} raised {one_line(act.error)}")
        return warnings


def _marked(hook: Callable[[], Any]) -> None:
    _here.inside = True
    try:
        hook()
    finally:
        _here.inside = False


def _name(hook: Callable[[], Any]) -> str:
    return str(getattr(hook, "__qualname__", None) or repr(hook))


def _same(one: Callable[[], Any], other: Callable[[], Any]) -> bool:
    if one is other:
        return True
    key = ("__module__", "__qualname__")
    if not all(inspect.isfunction(hook) for hook in (one, other)) or "<" in _name(one):
        return False
    return all(getattr(one, k) == getattr(other, k) for k in key)
