"""The runtime record: what is known of one living kernel, on disk.

``<runtime>/ckpt/<kernel_id>/record.json`` (0600 in a 0700 folder) is the truth
about a kernel. Whoever holds it can start a new agent for the kernel or adopt
it into a new server. It is written by rename, so it is whole or absent.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import KernelNotFound, RecordCorrupt
from .faults import point
from .plan import Schedule
from .private import is_own
from .procfs import ProcessId
from .protocol import checked_kernel_id

RECORD_NAME = "record.json"


@dataclass
class Record:
    """One living kernel. Pids are host pids; ``*_inner_pid`` are pids in its box."""

    kernel_id: str
    kernel_name: str = "python3"
    language: str = "python"
    mode: str = "root"
    epoch: int = 1
    cwd: str = "/"
    connection_file: str = ""
    init: ProcessId | None = None
    """PID 1 of the box; None in caps mode."""
    root: ProcessId | None = None
    """The dump root: session leader and subreaper of the tree."""
    kernel: ProcessId | None = None
    root_inner_pid: int = 0
    kernel_inner_pid: int = 0
    alias: str | None = None
    """In caps mode the path that stands for the runtime folder in the tree, for good."""
    agent: ProcessId | None = None
    owner: dict[str, Any] | None = None
    """The server that shows this kernel: {pid, start_time, root_dir, url}; None: headless."""
    store: str | None = None
    """The folder its agent saves into, unless a request names another."""
    session: dict[str, Any] | None = None
    """The Jupyter session: {id, path, name, type}; `path` as the server spells it. A kernel
    with several has its notebook's here, and the rest as a list under ``others``."""
    notebook: str | None = None
    """Absolute path of the notebook document."""
    parent: str | None = None
    """Id of the checkpoint this process was last saved to or restored from."""
    recover: str | None = None
    """The checkpoint to restore should this kernel be found dead: its process was
    stopped to be replaced, and whoever was doing that may have died in between."""
    recover_store: str | None = None
    """The store that checkpoint is in: a restore may name another than the agent's own."""
    origin: dict[str, Any] | None = None
    """The request this process came from: {kind, request_id, and for a restore what
    it answers}. Whoever repeats that request is told so, and nothing is done again."""
    replaced_by: str | None = None
    """The id of the restore that was stopping this process; set together with `recover`."""
    injected: bool = False
    """Whether the in-kernel part was given to this kernel at its start."""
    link_seen: bool = False
    """Whether that part was ever heard: a kernel need not take what it is given."""
    schedule: Schedule | None = None
    """When checkpoints are made by themselves; None: never."""
    automatic: dict[str, Any] | None = None
    """How the last automatic checkpoint went: {last: {at, id, error}, failures: in a row}."""
    mark: dict[str, Any] | None = None
    """How far the kernel was when it was last saved or restored (see agent.activity)."""
    env: dict[str, str] = field(default_factory=dict)
    """Jupyter's own variables for the kernel (JPY_SESSION_NAME, ...), never all."""
    later: dict[str, Any] = field(default_factory=dict)
    """Fields that a later version wrote: kept, so that it finds them again."""

    def is_alive(self) -> bool:
        """Tell whether the recorded kernel process still runs."""
        return self.kernel is not None and self.kernel.is_alive()

    def is_unfinished(self) -> bool:
        """Tell whether somebody died while starting or replacing this kernel."""
        box_remains = self.init is not None and self.init.is_alive()
        return not self.is_alive() and (box_remains or self.recover is not None)

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found.pop("later"), **found}

    @classmethod
    def from_dict(cls, data: Any) -> Record:
        """Return the record in `data`; raise `RecordCorrupt` on a bad shape."""
        known = {f.name for f in fields(cls)} - {"later"}
        try:
            kept = {name: value for name, value in data.items() if name in known}
            for name in ("init", "root", "kernel", "agent"):
                kept[name] = ProcessId.from_dict(kept.get(name))
            kept["schedule"] = Schedule.from_dict(kept.get("schedule"))
            for name in ("automatic", "mark"):
                if not isinstance(kept.get(name), (dict, type(None))):
                    raise TypeError(f"{name!r} is not an object")
            store = kept.get("store")
            if store is not None and not (isinstance(store, str) and os.path.isabs(store)):
                raise TypeError("'store' is not an absolute path")
            kept["later"] = {name: value for name, value in data.items() if name not in known}
            record = cls(**kept)
            checked_kernel_id(record.kernel_id)
        except Exception as error:
            raise RecordCorrupt(f"It is malformed: {error}.") from error
        return record


def next_epoch(runtime_dir: Path, at_least: int) -> int:
    """Return an epoch above `at_least` and above all that were given to restored kernels here.

    So a kernel restored from an old checkpoint is never taken for one that lived
    in between. The highest is kept in ``.epoch`` of `runtime_dir`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(runtime_dir / ".epoch", flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        text = os.pread(handle, 32, 0)
        found = max(at_least, int(text) if text.isdigit() else 0) + 1
        os.pwrite(handle, str(found).encode(), 0)
        return found
    finally:
        os.close(handle)


def record_folder(runtime_dir: Path, kernel_id: str) -> Path:
    """Return the runtime folder of a kernel (`runtime_dir` is ``<runtime>/ckpt``)."""
    return runtime_dir / checked_kernel_id(kernel_id)


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` with `data`, 0600, whole or not at all, on stable storage."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        point("record.written")
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a kernel into its runtime folder, by rename."""
    text = json.dumps(record.to_dict(), indent=1, sort_keys=True)
    write_private(folder / RECORD_NAME, text.encode())
    point("record.named")


def read_record(folder: Path) -> Record:
    """Return the record in a runtime folder.

    Raises `KernelNotFound` when there is none, `RecordCorrupt` when it cannot
    be read as one.
    """
    if (folder / RECORD_NAME).exists() and not is_own(folder):
        raise RecordCorrupt(f"The runtime record in {folder} belongs to another user.",
                            "Set JUPYTER_RUNTIME_DIR to a folder of your own.")
    try:
        data = json.loads((folder / RECORD_NAME).read_bytes())
    except FileNotFoundError as error:
        raise KernelNotFound(f"No kernel {folder.name} is running here.",
                             "'jupyter ckpt ps' shows the kernels.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(folder, str(error)) from error
    try:
        record = Record.from_dict(data)
    except RecordCorrupt as error:
        raise _corrupt(folder, error.message) from error
    if record.kernel_id != folder.name:
        raise _corrupt(folder, f"It names kernel {record.kernel_id}.")
    return record


def _corrupt(folder: Path, reason: str) -> RecordCorrupt:
    return RecordCorrupt(
        f"The runtime record {folder / RECORD_NAME} of kernel {folder.name} cannot be read: "
        f"{reason[:1].lower()}{reason[1:].rstrip('.')}.",
        f"If that kernel still runs, %checkpoint in it writes the record anew; if it is gone, "
        f"remove {folder}.")


def all_records(runtime_dir: Path) -> tuple[list[Record], list[str]]:
    """Return every readable record, and one sentence for each unreadable one."""
    records, damaged = scan_records(runtime_dir)
    return records, [error.message for error in damaged.values()]


def scan_records(runtime_dir: Path) -> tuple[list[Record], dict[str, RecordCorrupt]]:
    """Return every readable record, and {kernel id: what is wrong} of the others."""
    records, damaged = [], {}
    for folder in sorted(runtime_dir.iterdir()) if runtime_dir.is_dir() else ():
        try:
            if (folder / RECORD_NAME).exists():
                records.append(read_record(folder))
        except RecordCorrupt as error:
            damaged[folder.name] = error
    return records, damaged
