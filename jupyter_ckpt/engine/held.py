"""What one descriptor or mapping of a living process is to CRIU: savable or not.

Each function returns ``(kind, subject)``, a line of `unsupported.UNSUPPORTED`
and what to put in its words, or None for what is saved.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

MEMORY_MAJOR, TERMINAL_MAJOR, SECOND_TERMINAL_MAJOR, MISC_MAJOR = 1, 4, 5, 10
CONSOLES, SERVED_AUXILIARY, AUTOFS_MINOR = range(1, 64), (0, 1, 2), 235
_OTHER_TERMINAL_MAJORS = (188, 204, *range(128, 144))
SAVED_PROTOCOLS = ("TCP", "UDP", "NETLINK", "PACKET", "RAW", "UNIX")
_SAVED_ANONYMOUS = ("eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd")
_DELETED = " (deleted)"
_BOX_MOUNTS = ("/proc", "/dev")
_UNSUITED = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +"
    rb"(.*(?: \(deleted\)|/dev/|anon_inode:|\[uprobes\]).*)$",
    re.M)
_HINTS_OF_UNSUITED = (b"(deleted)", b"/dev/", b"anon_inode:", b"[uprobes]")
_MEMORY_NAMES = ("/memfd:", "/dev/zero", "/dev/shm/", "/anon_hugepage")

Kind = tuple[str, str]


@dataclass(frozen=True)
class Surroundings:
    """What a descriptor is judged by: the tree it belongs to and the mounts it has."""

    pids: Collection[int]
    ghost_limit_bytes: int
    mounts: Mapping[int, str]
    """{mount id: mount point} as the tree sees them."""
    outer_mounts: Collection[str]
    """Mount points that exist outside of the tree's box too."""


def descriptor_kind(process: str, number: str, link: str, around: Surroundings) -> Kind | None:
    """Judge descriptor `number` of ``/proc/PID`` (`process`), which is `link`.

    Raises `OSError` when it has been closed meanwhile. Unix sockets are judged
    by their other end, not here.
    """
    path = f"{process}/fd/{number}"
    if link.startswith("socket:"):
        protocol = os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode()
        saved = protocol.startswith(SAVED_PROTOCOLS)
        return None if saved else ("socket", protocol.removeprefix("AF_"))
    if link.startswith("anon_inode:"):
        return _anonymous(link, f"{process}/fdinfo/{number}", around)
    if not link.startswith("/") or link.startswith("/memfd:"):
        return None
    if link.startswith("/dev/") and not link.startswith("/dev/shm/"):
        status = os.stat(path)
        return device_kind(status.st_mode, status.st_rdev, link)
    if link.startswith("/secretmem"):
        return "secret-memory", ""
    found = _mount(link, f"{process}/fdinfo/{number}", around)
    if found is None and link.endswith(_DELETED):
        found = _deleted(process, os.stat(path), link, around)
    return found


def _anonymous(link: str, fdinfo: str, around: Surroundings) -> Kind | None:
    name = link.removeprefix("anon_inode:").strip("[]")
    if name in ("inotify", "fanotify"):  # without a watch they are saved everywhere
        return (name, "") if f"{name} " in _read(fdinfo) else None
    if name == "pidfd":
        match = re.search(r"^Pid:\s+(\d+)", _read(fdinfo), re.M)
        return ("outer-pidfd", "") if match and int(match[1]) not in around.pids else None
    return anonymous_kind(name)


def anonymous_kind(name: str) -> Kind | None:
    """Judge an anonymous inode by its name."""
    if name in _SAVED_ANONYMOUS:
        return None
    named = {"io_uring": "io-uring", "userfaultfd": "userfaultfd"}
    return (named[name], "") if name in named else ("anonymous", name)


def device_kind(mode: int, device: int, path: str) -> Kind | None:
    """Judge an open device by its ``st_mode`` and ``st_rdev``; what is no device is saved."""
    if stat.S_ISBLK(mode):
        return "device", path
    if not stat.S_ISCHR(mode):
        return None
    major, minor = os.major(device), os.minor(device)
    saved = (major == MEMORY_MAJOR or major in _OTHER_TERMINAL_MAJORS
             or (major == TERMINAL_MAJOR and minor in CONSOLES)
             or (major == SECOND_TERMINAL_MAJOR and minor in SERVED_AUXILIARY)
             or (major == MISC_MAJOR and minor == AUTOFS_MINOR))
    return None if saved else ("gpu" if is_gpu(path) else "device", path)


def is_gpu(path: str) -> bool:
    """Tell whether a device belongs to a graphics processor."""
    return path.startswith(("/dev/nvidia", "/dev/dri/", "/dev/kfd"))


def _mount(link: str, fdinfo: str, around: Surroundings) -> Kind | None:
    match = re.search(r"^mnt_id:\s+(\d+)", _read(fdinfo), re.M)
    if match is None:
        return None
    point = around.mounts.get(int(match[1]))
    name = link.removesuffix(_DELETED)
    if point is None:
        return "outer-file", name
    if point.startswith(_BOX_MOUNTS) or point in around.outer_mounts:
        return None
    return "inner-mount", name


def _deleted(
    process: str, status: os.stat_result, link: str, around: Surroundings
) -> Kind | None:
    if stat.S_ISREG(status.st_mode) and status.st_nlink and not _is_at(process, link, status):
        return "unlinked-file", link.removesuffix(_DELETED)
    size = status.st_blocks * 512
    if status.st_nlink or size <= around.ghost_limit_bytes:
        return None
    return "deleted-file", f"{link.removesuffix(_DELETED)} ({size / 1e9:.1f} GB)"


def _is_at(process: str, path: str, status: os.stat_result) -> bool:
    """Tell whether a file is what the process finds at `path`: its name may end in (deleted)."""
    try:
        return os.path.samestat(os.stat(f"{process}/root{path}"), status)
    except OSError:
        return False


def mapping_kinds(process: str) -> Iterator[tuple[str, Kind]]:
    """Yield (address, kind) of what stands in the ``maps`` of ``/proc/PID``, each kind once.

    Raises `OSError` when the process has ended.
    """
    with open(f"{process}/maps", "rb") as file:
        maps = file.read()
    if not any(hint in maps for hint in _HINTS_OF_UNSUITED):
        return
    told = set()
    for match in _UNSUITED.finditer(maps):
        name = match[3].decode("utf-8", "replace")
        found = mapping_kind(name)
        if found is not None and found[0] == "deleted-mapping":
            found = _deleted_mapping(process, int(match[1], 16), int(match[2], 16), name, found)
        if found is not None and found not in told:
            told.add(found)
            yield match[1].decode(), found


def _deleted_mapping(process: str, start: int, end: int, name: str, known: Kind) -> Kind | None:
    """Look closer at a mapping of a deleted file, where one may: as root."""
    try:
        status = os.stat(f"{process}/map_files/{start:x}-{end:x}")
    except OSError:
        return known
    if not status.st_nlink:
        return known
    return None if _is_at(process, name, status) else ("unlinked-mapping", known[1])


def mapping_kind(name: str) -> Kind | None:
    """Judge a mapping by its name in ``/proc/PID/maps``."""
    if name.startswith(_MEMORY_NAMES):
        return None
    if name.startswith("anon_inode:"):
        return anonymous_kind(name.removeprefix("anon_inode:").strip("[]"))
    if name.startswith("/dev/"):
        return ("gpu-memory" if is_gpu(name) else "device-memory"), name
    for start, kind in (("/SYSV", "sysv-shared-memory"), ("/secretmem", "secret-memory"),
                        ("/[aio]", "aio"), ("[uprobes]", "uprobes")):
        if name.startswith(start):
            return kind, ""
    deleted = name.endswith(_DELETED)
    return ("deleted-mapping", name.removesuffix(_DELETED)) if deleted else None


def mount_points(process: str) -> dict[int, str]:
    """Return {mount id: mount point} of the mount namespace of ``/proc/PID``."""
    lines = (line.split() for line in _read(f"{process}/mountinfo").splitlines())
    return {int(words[0]): words[4] for words in lines}


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
