"""Everything that would make a restore fail, found before anything is touched.

Only what each check needs is unpacked. What is found is told in one error.
What changes afterwards still meets the same checks, or CRIU's, while restoring.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..box.reaping import ended_are_reaped
from ..engine.openfiles import process_tree, special_files
from ..engine.sockets import InetSockets, inet_sockets
from ..errors import RestoreRefused
from ..manifest import Manifest
from ..procfs import ProcessId, command_name, rss_bytes, threads_of
from ..store import Store
from . import host, saved
from .libraries import check_unchanged
from .ports import check_ports
from .refusals import Refusals
from .room import check_disk, check_memory
from .savedfiles import SHARED_MEMORY, FilePlan, plan_files


@dataclass
class Preflight:
    """The checks of one restore.

    ``scratch`` is an empty folder on the disk that the checkpoint would be
    unpacked to, ``policy`` how files are treated, ``shared`` whether the
    original may live on, ``forced_ports`` {saved: wanted}, ``replaced`` the pids
    of the session whose place is taken.
    """

    store: Store
    manifest: Manifest
    details: dict[str, Any]
    criu_version: str
    scratch: Path
    policy: str
    shared: bool
    forced_ports: dict[int, int]
    replaced: Collection[int] = ()
    plan: FilePlan = field(default_factory=FilePlan)
    """What is to be done about files, known after `run`."""

    def run(self) -> list[str]:
        """Return warnings. Raises `RestoreRefused` with all reasons, `IntegrityError`."""
        refusals, warnings = Refusals(), []
        with refusals.collecting():
            warnings += host.check_compatible(
                self.manifest.host, self.details["cpu_flags"], self.criu_version)
        with refusals.collecting():
            warnings += check_unchanged(saved.parsed(
                self.store.read_file(self.manifest, "libraries.json"), saved.LIBRARIES,
                "libraries.json"))
        with refusals.collecting():
            freed = sum(rss_bytes(pid) for pid in self.replaced)
            needed = self.manifest.memory_bytes
            largest = max((p.get("rss_bytes") or 0 for p in self.manifest.processes),
                          default=needed)
            warnings += check_memory(needed, freed, least_bytes=min(needed, largest))
        sockets = self._unpack_tables()
        self._check_special_files(refusals)
        if self.details["mode"] == "caps":
            self._check_pids(refusals)
        check_ports(sockets, self.forced_ports, self.replaced, refusals)
        self._check_folders(refusals)
        with refusals.collecting():
            self.plan = plan_files(self.manifest.files, self.policy, self.scratch, self.shared)
        self._check_writable(self.plan, refusals)
        with refusals.collecting():
            self._check_space(self.plan)
        refusals.raise_if_any()
        return warnings

    def _unpack_tables(self) -> InetSockets:
        """Unpack the table of files, and contents that an old manifest has no hashes of."""
        names = ["images/files.img", "images/pstree.img"]
        files = saved.checked(self.manifest.files, saved.FILES, "The list of files")
        names += [f["content"] for f in files if f["saved"] and "blake3" not in f]
        self.store.materialise(self.manifest, self.scratch, names=names)
        return inet_sockets(self.scratch / "images")

    def _check_special_files(self, refusals: Refusals) -> None:
        """Refuse when a folder or named pipe that the session has open is gone or replaced."""
        working = self.details["working_folders"]
        own = (self.details["runtime"], self.details["inner_runtime"])
        for path, kind in special_files(self.scratch / "images").items():
            if path in working or path.startswith(("/proc", "/dev", "/sys", *own)):
                continue  # made anew, or of the box
            word = "folder" if kind == stat.S_IFDIR else "named pipe"
            try:
                now = stat.S_IFMT(os.stat(path).st_mode)
            except OSError:
                refusals.add(f"The {word} {path}, which the session has open, is missing.",
                             "Make it again, then restore again.")
                continue
            if now != kind:
                refusals.add(f"{path} was a {word} at the checkpoint and is something else now.",
                             "Bring it back as it was, then restore again.")

    def _check_pids(self, refusals: Refusals) -> None:
        """Refuse when a process id is a living process's; one that is ending is waited for.

        That is in vain where nobody takes notice of the ended.
        """
        wanted = process_tree(self.scratch / "images").all_ids
        if any(os.path.exists(f"/proc/{pid}") for pid in wanted) and not ended_are_reaped():
            refusals.add(
                f"The session's process ids would never be free: process 1 "
                f"({command_name(1)}) takes no notice of processes that ended.",
                "Start the container with an init as its first process ('docker run --init', "
                "or tini), then restore again.")
        given_up = {thread for pid in self.replaced for thread in threads_of(pid)}
        for pid in sorted(wanted - given_up):
            if ProcessId.of(pid) is not None:
                refusals.add(f"Process id {pid} of the session is taken by another process "
                             f"({command_name(pid)}).",
                             "Wait until that process has ended, or restore after a reboot.")

    def _check_folders(self, refusals: Refusals) -> None:
        for path in self.details["working_folders"]:
            if os.path.isdir(path):
                continue
            if os.path.lexists(path):
                refusals.add(f"{path}, a working directory of the session, is no folder any more.",
                             "Move what is there out of the way, then restore again.")
            elif not _may_write(above := existing_above(path)):
                refusals.add(
                    f"The working directory {path} is missing and cannot be made in {above}.",
                    "Make it again, then restore again.")

    def _check_writable(self, plan: FilePlan, refusals: Refusals) -> None:
        for path in [*(entry["path"] for entry in plan.put_back), *plan.move_away]:
            folder = existing_above(path)
            if path.startswith(SHARED_MEMORY):
                continue
            if not _may_write(folder) or not _may_rename(path):
                refusals.add(f"{path} has changed and cannot be put back: {folder} may not be "
                             "written to.",
                             "Make it writable, or restore with --files keep.")

    def _check_space(self, plan: FilePlan) -> None:
        needed = {str(self.scratch): self.store.unpacked_bytes(self.manifest)}
        for entry in plan.put_back:
            folder = existing_above(entry["path"])
            needed[folder] = needed.get(folder, 0) + entry["size_bytes"]
        check_disk(needed)


def existing_above(path: str) -> str:
    """Return the nearest folder above `path` that exists."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        if folder == os.path.dirname(folder):
            raise RestoreRefused(f"No folder above {path} exists.", "Make one.")
        folder = os.path.dirname(folder)
    return folder


def _may_write(folder: str) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


def _may_rename(path: str) -> bool:
    """Tell whether a file in a sticky folder (/tmp) is ours to rename."""
    try:
        own, folder = os.lstat(path), os.stat(os.path.dirname(path))
    except OSError:
        return True
    user = os.geteuid()
    return not folder.st_mode & stat.S_ISVTX or user in (0, own.st_uid, folder.st_uid)
