"""The list of cases: operation x step x act x who suffers it.

A step is a name of `jupyter_ckpt.faults.POINTS` (``name#3``: the third time that a
process comes by), or ``criu.NAME``, a scene of the stand-in criu. Who: the agent, the
client, the server, criu, the notifier (criu's action script), the entry (the process
that waits for criu at the way into the box), the kernel, the init (PID 1 of its box),
the writer (a process that works on the store alone). What means nothing is left out:
criu can only die while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jupyter_ckpt.faults import POINTS


@dataclass(frozen=True)
class Case:
    """One fault; its `id` is stable and names it on the command line."""

    operation: str
    step: str
    act: str
    who: str

    @property
    def id(self) -> str:
        return f"{self.operation}:{self.step}:{self.act}:{self.who}"

    @property
    def point(self) -> str:
        return self.step.partition("#")[0]

    @property
    def nth(self) -> int:
        return int(self.step.partition("#")[2] or 1)

    @property
    def is_scene(self) -> bool:
        return self.step.startswith("criu.")

    @property
    def ends_kernel(self) -> bool:
        return self.who in ("kernel", "init")

    @property
    def waits(self) -> bool:
        """Tell whether somebody stands still until the runner lets go."""
        return self.act in ("stop", "hang") or self.step in ("criu.hangs", "criu.stops")


DISK = ("enospc", "eio")
EVERY = ("kill", "stop", "hang", *DISK)

TRANSACTION = ("store.begun", "store.claimed", "store.claimed#2", "store.chunk", "store.chunk#4",
               "store.write", "store.write#4", "store.chunks-synced", "store.chunk-named",
               "store.chunk-named#4", "store.chunks-named", "store.manifest-written",
               "store.manifest-named", "store.committed")
SAVE = ("save.begun", "save.quiesced", "save.frozen", "save.copied", "save.dumped", "save.thawed",
        "save.stored", "save.recorded")
FROZEN = ("save.frozen", "save.copied")
RESTORE = ("restore.begun", "restore.unpacked", "restore.boxed", "restore.files-back",
           "restore.edited", "restore.running", "restore.told", "restore.recorded")
REPLACING = ("restore.saved", "restore.marked", "restore.stopped")
LAUNCH = ("agent.listening", "launch.boxed", "launch.started", "launch.recorded")

STORE = {
    "create": ("store.write",),
    "transaction": TRANSACTION,
    "update": ("store.write", "store.update-written", "store.update-named"),
    "remove": ("store.removed",),
    "collect": ("gc.begun", "gc.marked", "gc.removed", "gc.removed#5", "gc.ended"),
    "retain": ("retention.removed", "retention.removed#2"),
}
NO_DISK = ("store.committed", "retention.removed", "retention.removed#2")
"""Steps after which nothing is asked of the disk for what was done there."""

DUMP_SCENES = ("dies", "fails", "claims-success", "truncates", "forgets",
               *(f"killed-after-ms-{ms}" for ms in (15, 25, 40, 60, 80, 100, 130, 160, 200)),
               "disk-full-after-kb-64", "disk-full-after-kb-9000", "hangs", "stops")
RESTORE_SCENES = ("dies", "fails", "claims-success", "killed-after-ms-15", "killed-after-ms-40",
                  "hangs", "stops")


def _cases(operation: str, steps: tuple[str, ...], acts: tuple[str, ...], who: str
           ) -> Iterator[Case]:
    for step in steps:
        assert step.startswith("criu.") or step.partition("#")[0] in POINTS, step
        for act in acts:
            yield Case(operation, step, act, who)


def _with_short(operation: str, steps: tuple[str, ...], who: str) -> Iterator[Case]:
    writes = tuple(step for step in steps if step.startswith("store.write"))
    return _cases(operation, writes, ("short",), who)


def store_cases() -> Iterator[Case]:
    """What works on the store alone: no kernel is needed."""
    for operation, steps in STORE.items():
        for step in steps:
            acts = EVERY[:3] if step in NO_DISK else EVERY
            yield from _cases(operation, (step,), acts, "writer")
        yield from _with_short(operation, steps, "writer")


def save_cases() -> Iterator[Case]:
    yield from _cases("save", SAVE, EVERY, "agent")
    yield from _cases("save", ("record.written", "record.named"), ("kill", *DISK), "agent")
    stored = tuple(step for step in TRANSACTION if step != "store.claimed#2")
    yield from _cases("save", stored, ("kill",), "agent")
    yield from _cases("save", stored[:-1], ("enospc",), "agent")
    yield from _cases("save", ("store.chunk", "store.chunks-synced", "store.manifest-named"),
                      ("stop", "eio"), "agent")
    yield from _with_short("save", TRANSACTION, "agent")
    yield from _cases("save", FROZEN, ("kill", "stop"), "criu")
    yield from _cases("save", FROZEN, ("kill", "stop"), "notifier")
    yield from _cases("save", FROZEN, ("kill", "stop"), "entry")
    yield from _cases("save", (*SAVE, "store.chunks-synced"), ("kill",), "client")
    yield from _cases("save", ("save.begun", "save.frozen", "save.stored"), ("stop",), "client")
    yield from _cases("save", (*SAVE, "store.manifest-named"), ("kill",), "kernel")
    yield from _cases("save", ("save.begun", "save.frozen", "save.dumped", "save.stored"),
                      ("kill",), "init")
    yield from _scenes("save", "dump", DUMP_SCENES)


def restore_cases() -> Iterator[Case]:
    records = ("record.written", "record.named", "record.written#2", "record.written#3")
    new = "restore-new"
    yield from _cases(new, RESTORE, ("kill", "stop", "enospc"), "agent")
    yield from _cases(new, RESTORE, ("kill",), "client")
    yield from _cases(new, records, ("kill", "enospc"), "agent")
    yield from _cases(new, ("restore.boxed", "restore.running"), ("hang", "eio"), "agent")
    yield from _scenes(new, "restore", RESTORE_SCENES)
    place = "restore-in-place"
    steps = (*RESTORE[:2], *REPLACING, *RESTORE[2:])
    yield from _cases(place, steps, ("kill", "enospc"), "agent")
    yield from _cases(place, steps, ("kill",), "client")
    yield from _cases(place, (*REPLACING, "restore.boxed", "restore.running"),
                      ("stop", "hang", "eio"), "agent")
    yield from _cases(place, (*FROZEN, "save.dumped", "store.chunks-synced", "store.manifest-named",
                              *records, "record.named#3", "record.written#4", "record.written#5",
                              "record.written#6"),
                      ("kill", "enospc"), "agent")
    yield from _cases(place, ("restore.unpacked", "restore.saved", "restore.marked"),
                      ("kill",), "kernel")
    yield from _cases(place, ("restore.unpacked", "restore.marked"), ("kill",), "init")
    yield from _cases(place, FROZEN, ("kill",), "criu")
    yield from _scenes(place, "dump", ("dies", "truncates", "hangs"))
    yield from _scenes(place, "restore", RESTORE_SCENES)


def life_cases() -> Iterator[Case]:
    """Beginning and end of kernels and agents."""
    yield from _cases("launch", LAUNCH, EVERY, "agent")
    yield from _cases("launch", ("record.written", "record.written#2", "record.named"),
                      ("kill", "enospc"), "agent")
    yield from _cases("launch", LAUNCH, ("kill",), "client")
    yield from _cases("take-over", ("agent.listening", "record.written", "record.named"),
                      ("kill", "stop", "enospc"), "agent")
    yield from _cases("recover", RESTORE, ("kill", "enospc"), "agent")
    yield from _cases("fork", ("save.frozen", "save.stored", "restore.boxed", "restore.running",
                               "restore.recorded"), ("kill", "enospc"), "agent")
    yield from _cases("fork", ("save.frozen", "save.stored", "restore.running"), ("kill",),
                      "client")
    yield from _cases("end", ("agent.burying",), EVERY, "agent")


def server_cases() -> Iterator[Case]:
    """What a Jupyter server does with kernels."""
    adopt = ("adopt.found", "adopt.claimed", "adopt.shown", "adopt.done")
    swap = ("swap.begun", "swap.restored", "swap.done")
    yield from _cases("adopt", adopt, ("kill", "stop", "hang", "enospc"), "server")
    yield from _cases("swap", swap, ("kill", "stop", "enospc"), "server")
    yield from _cases("swap", ("restore.stopped", "restore.running"), ("kill",), "agent")
    yield from _cases("depart", ("park.secured", "park.marked", "depart.saved",
                                 "depart.released"), ("kill", "stop", "enospc"), "server")
    yield from _cases("depart", ("save.frozen", "save.stored"), ("kill",), "agent")
    yield from _cases("cull", ("cull.saved", "cull.stopped"), ("kill", "stop", "enospc"), "server")
    yield from _cases("revive", ("revive.restored",), ("kill", "stop"), "server")
    yield from _cases("crash", ("revive.attempted", "revive.restored"), ("kill", "stop"), "server")
    yield from _cases("crash", ("revive.attempted",), ("enospc",), "server")
    yield from _cases("crash", ("offer.written",), ("kill", "stop", "enospc"), "agent")
    yield from _cases("sweep", ("offer.written",), ("kill", "stop", "enospc"), "server")
    yield from _cases("watch", ("watch.started",), ("kill", "stop", "hang", "enospc"), "server")
    yield from _cases("pressure", ("pressure.asked",), ("kill", "hang", "enospc"), "agent")


def _scenes(operation: str, verb: str, names: tuple[str, ...]) -> Iterator[Case]:
    for name in names:
        yield Case(operation, f"criu.{name}", "scene", verb)


PARTS = {"store": store_cases, "save": save_cases, "restore": restore_cases, "life": life_cases,
         "server": server_cases}


def all_cases() -> list[Case]:
    """Return every case once, those of one kind together."""
    return list(dict.fromkeys(case for part in PARTS.values() for case in part()))
