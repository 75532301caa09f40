"""How much memory is left for a process: of the machine, and of each of its cgroups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
_V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_V1 = "sys/fs/cgroup/memory"


@dataclass(frozen=True)
class Room:
    """Memory that can be had without taking it from anybody, where there is a limit."""

    available_bytes: int
    total_bytes: int
    where: str


def rooms(pid: int, root: Path = ROOT) -> list[Room]:
    """Return the machine's room and that of every cgroup of `pid` that has a limit.

    What cannot be read is left out: nothing is known of it then. `root` is
    where /proc and /sys are looked for.
    """
    machine = _machine(root)
    found = [machine] if machine is not None else []
    for folder in cgroup_folders(pid, root):
        room = _room(folder)
        # No limit at all is written as a number larger than any machine.
        if room is not None and (machine is None or room.total_bytes < machine.total_bytes):
            found.append(room)
    return found


def pressure_files(pid: int, root: Path = ROOT) -> list[Path]:
    """Return the files that tell of stalls for want of memory: machine, own cgroup."""
    found = [root / "proc/pressure/memory"]
    for folder in cgroup_folders(pid, root):
        if (folder / "memory.pressure").exists():
            found.append(folder / "memory.pressure")
            break
    return found


def cgroup_folders(pid: int, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of the memory cgroups of `pid`, innermost first."""
    try:
        lines = (root / "proc" / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, inner = rest.partition(":")
        if controllers == "":
            mount = next((root / m for m in _V2 if (root / m / "cgroup.controllers").exists()),
                         None)
        elif "memory" in controllers.split(","):
            mount = root / _V1
        else:
            continue
        if mount is not None:
            yield from _levels(mount, inner)


def _levels(mount: Path, inner: str) -> Iterator[Path]:
    """Yield the existing folders from `inner` up to the mount itself.

    In a container that path may be the host's, and the mount its own cgroup.
    """
    parts = [part for part in inner.split("/") if part not in ("", ".", "..")]
    for count in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:count])
        if folder.is_dir():
            yield folder


def _machine(root: Path) -> Room | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return Room(_kib(fields["MemAvailable"]), _kib(fields["MemTotal"]), "the machine")
    except (OSError, KeyError, ValueError):
        return None


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _room(folder: Path) -> Room | None:
    for limit_name, used_name, idle_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")):
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / used_name).read_text())
            # Pages of files that nobody has used of late are given up without pain.
            idle = _stat(folder / "memory.stat", idle_name)
        except (OSError, ValueError):
            continue  # "max", or the other kind of cgroup
        return Room(max(0, limit - max(0, used - idle)), limit, f"the cgroup {folder}")
    return None


def _stat(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
