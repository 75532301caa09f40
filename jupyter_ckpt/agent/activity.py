"""Whether a kernel has done anything since it was last saved."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from ..procfs import ProcessId, descendants, stat_fields
from .kernel_link import START_DEADLINE_S

if TYPE_CHECKING:
    from .kernel import Kernel

CPU_NOISE_S = 0.1
NOISE_SHARE = 1e-4
"""What an idle kernel may use besides, per second: heartbeats and our questions."""
SAME_CPU_S = 0.02
"""All that a kernel may have used in whatever time and still be called the same."""
_ALONE = 2
"""The dump root and the kernel: a tree without children of the user's."""
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Mark:
    """How far a kernel was at one moment."""

    cells: int | None
    """Cells it had run; None when nobody can tell (no in-kernel part, or not all of it)."""
    busy: bool
    cpu_s: float
    at: float
    """On the monotonic clock: one for all processes, until the machine is started anew."""
    callbacks: int | None = None
    """Messages besides cells that ran code (widgets, silent requests); None: nobody can tell."""
    background: bool = False
    """Whether threads, tasks or child processes of the user's are there, idle or not."""

    @classmethod
    def of(cls, root: ProcessId | None, status: dict[str, Any] | None) -> Mark:
        """Return the mark of the tree below `root`, with what the kernel said of itself."""
        said = status or {}
        tree = descendants(root.pid) if root is not None and root.is_alive() else ()
        return cls(_count(said.get("cells_run")), bool(said.get("busy")),
                   cpu_s(root), time.monotonic(), _count(said.get("callbacks_run")),
                   bool(said.get("background")) or len(tree) > _ALONE)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any] | None) -> Mark | None:
        """Return the mark in `data`; None for none, and for what is not one."""
        try:
            found = cls(**data) if data is not None else None
        except TypeError:
            return None
        if found is not None and not (
                isinstance(found.cells, (int, type(None))) and isinstance(found.busy, bool)
                and isinstance(found.cpu_s, (int, float)) and isinstance(found.at, (int, float))
                and isinstance(found.callbacks, (int, type(None)))
                and isinstance(found.background, bool)):
            return None
        return found

    def allowing(self, cost_s: float) -> Mark:
        """Return this mark as if the tree had used `cost_s` more until then."""
        return replace(self, cpu_s=self.cpu_s + max(0.0, cost_s))

    def is_beyond(self, earlier: Mark | None) -> bool:
        """Tell whether the kernel went on between `earlier` and this moment.

        Without an earlier one: whether it has ever done anything.
        """
        if self.busy:
            return True
        if earlier is None:
            return self.cells != 0
        if earlier.busy or self.cells != earlier.cells:
            return True
        noise_s = CPU_NOISE_S + NOISE_SHARE * (self.at - earlier.at)
        return self.cpu_s - earlier.cpu_s > noise_s

    def is_same(self, earlier: Mark | None) -> bool:
        """Tell whether nothing can have changed from `earlier` to this moment.

        Without an earlier one: whether nobody's code has ever run. Where
        `is_beyond` forgives what an idle kernel uses, for a save comes again,
        this is asked before a kernel is ended: it forgives next to nothing, and
        what cannot be known counts as changed.
        """
        if self.busy or self.cells is None:
            return False
        if earlier is None:
            return self.cells == 0
        if self.callbacks is None or self.background or earlier.busy or earlier.background:
            return False
        return ((self.cells, self.callbacks) == (earlier.cells, earlier.callbacks)
                # Whole ticks are compared, and sums of floats are not exact.
                and self.cpu_s - earlier.cpu_s <= SAME_CPU_S + _TICK_S / 2)


def _count(said: object) -> int | None:
    return said if isinstance(said, int) else None


def cpu_s(root: ProcessId | None) -> float:
    """Return the processor time of a tree, its ended processes included."""
    ticks = 0
    for pid in descendants(root.pid) if root is not None and root.is_alive() else ():
        fields = stat_fields(pid)
        if fields is not None:
            ticks += sum(map(int, fields[11:15]))  # its own, and that of awaited children
    return ticks * _TICK_S


def went_on(kernel: Kernel, timeout_s: float) -> bool:
    """Ask the kernel, and tell whether it did anything since it was last saved or restored.

    One that does not answer within `timeout_s` although it has before is held by
    native code: something runs. One that never did has no in-kernel part, whatever
    its language, once it has had time to start: its processor time tells then, and
    as long as it was never saved it went on. What the question itself costs is not
    counted.
    """
    used = Mark.of(kernel.record.root, None).cpu_s
    status = kernel.link.ask("status", timeout_s)
    now = Mark.of(kernel.record.root, status)
    if status is None and (kernel.record.link_seen or kernel.link.exists):
        return True
    if status is None and kernel.record.injected and _is_starting(kernel):
        return False
    if now.is_beyond(kernel.mark):
        return True
    if kernel.mark is not None:
        kernel.mark = kernel.mark.allowing(now.cpu_s - used)
    return False


def is_unchanged(kernel: Kernel, timeout_s: float) -> bool:
    """Ask the kernel, and tell whether it is as it was last saved or restored, beyond doubt.

    One that never ran anybody's code is, too. One without an in-kernel part, or that
    does not answer within `timeout_s`, never is.
    """
    used = cpu_s(kernel.record.root)  # what the question itself costs is not counted
    status = kernel.link.ask("status", timeout_s)
    if status is None:
        return False
    return replace(Mark.of(kernel.record.root, status), cpu_s=used).is_same(kernel.mark)


def _is_starting(kernel: Kernel) -> bool:
    process = kernel.record.kernel
    return process is not None and process.age_s() < START_DEADLINE_S
