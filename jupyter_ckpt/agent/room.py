"""Room for a restore: disk space for its files, memory for its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import RestoreRefused
from ..sizes import size as shown

DISK_HEADROOM_BYTES = 64 << 20


def check_disk(needed: Mapping[str, int]) -> None:
    """Raise `RestoreRefused` when a file system lacks space: {existing folder: bytes}."""
    by_device: dict[int, tuple[str, int]] = {}
    for folder, size in needed.items():
        device = os.stat(folder).st_dev
        name, sum_ = by_device.get(device, (folder, 0))
        by_device[device] = name, sum_ + size
    for folder, size in by_device.values():
        status = os.statvfs(folder)
        free = status.f_bavail * status.f_frsize
        if size and size + DISK_HEADROOM_BYTES > free:
            raise RestoreRefused(
                f"The restore needs {shown(size + DISK_HEADROOM_BYTES)} on the disk of "
                f"{folder}, where {shown(free)} are free.",
                "Free space there, or remove checkpoints ('jupyter ckpt rm', then "
                "'jupyter ckpt gc').")


def check_memory(needed_bytes: int, freed_bytes: int, proc: Path = Path("/proc"),
                 cgroups: Path = Path("/sys/fs/cgroup"), least_bytes: int | None = None
                 ) -> list[str]:
    """Return a warning when memory is short; raise `RestoreRefused` when it can never fit.

    ``freed_bytes`` is what the session that is replaced will give back,
    ``least_bytes`` what is needed even if processes share all they can (None:
    ``needed_bytes``).
    """
    least_bytes = needed_bytes if least_bytes is None else least_bytes
    info = _meminfo(proc / "meminfo")
    total, available = info["MemTotal"] + info["SwapTotal"], info["MemAvailable"] + info["SwapFree"]
    where = "this machine"
    for limit, used in _limits(proc, cgroups):
        if limit < total:
            total, where = limit, "the control group (container) it would run in"
        available = min(available, limit - used)
    if least_bytes > total:
        raise RestoreRefused(
            f"The session needs {shown(least_bytes)} of memory; {where} has "
            f"{shown(total)} in all.",
            "Restore it on a larger machine, or raise the limit.")
    if needed_bytes > available + freed_bytes:
        free = shown(max(0, available + freed_bytes))
        return [f"The session needs {shown(needed_bytes)} of memory and {free} were free: "
                "it may be ended for want of it."]
    return []


def _meminfo(path: Path) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, in use) in bytes of each control group of ours that has a limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            top, limit, used = cgroups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top = cgroups / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = top / path.lstrip("/")
        for folder in [own, *own.parents]:
            with suppress(OSError, ValueError):  # no limit ("max"), or not ours to see
                yield int((folder / limit).read_text()), int((folder / used).read_text())
            if folder == top:
                break
