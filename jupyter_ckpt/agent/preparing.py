"""Preparing a restore: compared with this machine, verified and unpacked, nothing touched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ModeUnavailable, RestoreRefused
from ..lasting import put_back
from ..manifest import Manifest
from ..plan import Schedule
from ..procfs import descendants
from ..protocol import PORT_NAMES, Job
from ..store import Store
from . import saved
from .kernel import Kernel
from .preflight import Preflight
from .savedfiles import FilePlan, plan_files
from .tools import Tools


@dataclass
class Prepared:
    """A checkpoint unpacked and checked, ready to run; nothing was touched yet."""

    manifest: Manifest
    details: dict[str, Any]
    folder: Path
    plan: FilePlan
    schedule: Schedule | None
    warnings: list[str] = field(default_factory=list)

    @property
    def images(self) -> Path:
        return self.folder / "images"


class Preparation:
    """Everything of one restore that can be refused; see `restore.Restore` for ``request``."""

    def __init__(self, tools: Tools, request: dict[str, Any], job: Job) -> None:
        self.tools, self.request, self.job = tools, request, job

    def prepare(
        self, store: Store, manifest: Manifest, work: Path, replaced: Kernel | None = None
    ) -> Prepared:
        """Compare with this machine, verify and unpack; `replaced` will be ended for it.

        Raises `RestoreRefused` with all reasons, or `IntegrityError`; nothing was touched.
        """
        self.job.enter("preparing")
        with store.reading(manifest):
            return self._prepare(store, manifest, work, replaced)

    def _prepare(
        self, store: Store, manifest: Manifest, work: Path, replaced: Kernel | None
    ) -> Prepared:
        if manifest.engine != "process":
            raise RestoreRefused(
                f"Checkpoint {manifest.id} holds variables, not a process.",
                "It can only be loaded into a running kernel.")
        details = saved.parsed(store.read_file(manifest, "restore.json"), saved.DETAILS,
                               "restore.json")
        self._check_mode(details["mode"])
        schedule, told = saved.schedule(details, self.request)
        manifest = replace(manifest, files=saved.with_hashes(manifest.files, details))
        for name, path in saved.programs(details).items():
            put_back(path, partial(store.read_file, manifest, name))
        preflight = self._preflight(store, manifest, details, work, replaced)
        warnings = told + preflight.run()
        folder = work / "restore"
        folder.mkdir()
        self.job.total_bytes = manifest.memory_bytes
        store.materialise(manifest, folder, self.job.advance)
        return Prepared(manifest, details, folder, preflight.plan, schedule, warnings)

    def _preflight(
        self, store: Store, manifest: Manifest, details: dict[str, Any], work: Path,
        replaced: Kernel | None,
    ) -> Preflight:
        root = replaced.record.root if replaced is not None else None
        scratch = work / "preflight"
        scratch.mkdir()
        return Preflight(
            store, manifest, details, self.tools.criu_binary().version, scratch,
            policy=self.request.get("files") or "put-back",
            shared=bool(self.request.get("shared")),
            forced_ports=self.forced_ports(details),
            replaced=descendants(root.pid) if root is not None else ())

    def forced_ports(self, details: dict[str, Any]) -> dict[int, int]:
        """Return {saved: to use} of the kernel's ports that the caller insists on."""
        saved, wanted = details.get("connection") or {}, self.request.get("connection") or {}
        return {int(saved[n]): int(wanted[n]) for n in PORT_NAMES if n in saved and n in wanted}

    def plan(self, manifest: Manifest, folder: Path) -> FilePlan:
        """Return what is to be done with the files of the session as they are now."""
        return plan_files(manifest.files, self.request.get("files") or "put-back", folder,
                          bool(self.request.get("shared")))

    def _check_mode(self, made: str) -> None:
        here = self.tools.mode()
        if made == here or ({made, here} == {"root", "rootless"} and here == "root"):
            return
        raise ModeUnavailable(
            f"The checkpoint was made in {made} mode; this machine offers {here} mode.",
            f"Set JUPYTER_CKPT_MODE={made}, or restore it where that mode works.")
