"""What works here, what does not, why, and what to do about it.

`doctor` never raises for what it finds: every failure becomes an entry of
``problems``, ``{"id", "message", "hint"}``.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from . import native_build
from .engine.criu_find import CRIU_VARIABLE, CriuBinary, find_criu
from .engine.selftest import SelfTest, selftest
from .errors import CheckpointError, StoreUnusable
from .privileges import MODES, Mode, decide_mode, hint_for, why_not
from .setup_criu import require_linux
from .store import Store
from .store.layout import Layout

Problem = dict[str, str]

LIMITS: dict[str, list[str]] = {
    "root": [],
    "rootless": [
        "Network connections between processes of a session come back closed.",
        "Sessions that watch files with inotify cannot be saved.",
        "Programs in a session cannot change user: su and sudo fail.",
    ],
    "caps": [
        "A session can be restored only while the process ids it had are free.",
        "Network connections between processes of a session come back closed.",
        "Sessions that watch files with inotify cannot be saved.",
    ],
    "none": ["Processes cannot be saved."],
}


def doctor(configured: str | None = None, store: Path | None = None) -> dict[str, Any]:
    """Examine this system; the answer of ``jupyter ckpt doctor --json``.

    `configured` is the configuration's criu, `store` the folder for checkpoints,
    None to leave it aside. ``process`` is True only after a real dump and restore,
    whatever the problems; then ``mode`` is the one in which kernels will run.
    """
    problems: list[Problem] = []
    criu = _examine_system(configured, store, problems)
    mode = _examine_mode(criu, problems)
    passed = _examine_criu(criu, mode, problems, configured)
    return {
        "process": passed is not None,
        "mode": mode.name if passed is not None else "none",
        "criu": criu.to_dict() if criu else None,
        "problems": problems,
        "capture": "full" if passed is not None else None,
        "limits": LIMITS[mode.name if passed is not None else "none"],
        "modes": {name: _mode_entry(name, criu) for name in MODES},
        "selftest": passed.to_dict() if passed else None,
        "native": _native_paths(),
        "host": _host(),
    }


def _problem(error: CheckpointError) -> Problem:
    return {"id": error.message_id, "message": error.message, "hint": error.hint}


def _examine_system(
    configured: str | None, store: Path | None, problems: list[Problem]
) -> CriuBinary | None:
    """Note what is missing of the programs; return the criu that starts here."""
    try:
        require_linux()
    except CheckpointError as error:
        problems.append(_problem(error))
        return None
    for message in native_build.problems():
        problems.append({"id": "native-missing", "message": message,
                         "hint": "Run `jupyter ckpt setup`."})
    _check_shared_memory(problems)
    _check_folders(problems)
    _check_store(problems, store)
    try:
        return find_criu(configured)
    except CheckpointError as error:
        problems.append(_problem(error))
        return None


def _check_shared_memory(problems: list[Problem]) -> None:
    if not os.access("/dev/shm", os.W_OK):
        problems.append({
            "id": "no-shared-memory", "message": "/dev/shm is missing or not writable.",
            "hint": "Mount a tmpfs on /dev/shm (in a container: --shm-size)."})


def _check_folders(problems: list[Problem]) -> None:
    """Note a Jupyter data or runtime folder in which nothing can be written."""
    from jupyter_core.paths import jupyter_data_dir, jupyter_runtime_dir

    for name, advice in ((jupyter_data_dir(), "set JUPYTER_DATA_DIR to"),
                         (jupyter_runtime_dir(), "set JUPYTER_RUNTIME_DIR to")):
        _check_writable("Jupyter's folder", Path(name), advice, problems)


def _check_writable(kind: str, folder: Path, advice: str, problems: list[Problem]) -> None:
    folder = folder.absolute()
    present = next(path for path in (folder, *folder.parents) if path.exists())
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        problems.append({
            "id": "folder-unusable",
            "message": f"{kind} {folder} cannot be written.",
            "hint": f"Correct its permissions, or {advice} a folder of yours."})


def _check_store(problems: list[Problem], store: Path | None) -> None:
    """Note why the next save could not use its store; makes none where there is none."""
    from jupyter_core.paths import jupyter_data_dir

    if store is None:
        return
    root = store.absolute()
    if not os.path.lexists(root):
        if not root.is_relative_to(Path(jupyter_data_dir()).absolute()):  # else it was told of
            _check_writable("The checkpoint store", root, "let CheckpointApp.store_dir name",
                            problems)
        return
    try:
        layout = Layout(root)
        layout.check_root()
        if os.path.lexists(layout.chunks):  # else a folder that the first save makes a store
            Store.open(root).check_writing()
    except CheckpointError as error:
        problems.append(_problem(error))
    except OSError as error:
        problems.append(_problem(StoreUnusable(
            f"The checkpoint store {root} cannot be looked at: {error.strerror}.",
            "Check that its file system is there, or choose another folder with --store.")))


def _examine_mode(criu: CriuBinary | None, problems: list[Problem]) -> Mode:
    if criu is None:
        return Mode("none")
    try:
        mode = decide_mode(criu)
    except CheckpointError as error:
        problems.append(_problem(error))
        return Mode("none")
    if mode.name == "none" and mode.rejected:
        problems.append({
            "id": "mode-unavailable",
            "message": f"No way of saving processes is allowed here. {mode.why}",
            "hint": f"{hint_for('rootless')} Or: {hint_for('caps')}"})
    return mode


def _examine_criu(
    criu: CriuBinary | None, mode: Mode, problems: list[Problem], configured: str | None
) -> SelfTest | None:
    """Save and restore a process for real; None when that is not possible."""
    if criu is None or mode.name == "none":
        return None
    try:
        return selftest(criu.path, mode.name)
    except CheckpointError as error:
        found = _problem(error)
        if configured and error.message_id == "criu-broken":
            found["hint"] = f"Correct CheckpointApp.criu in the configuration. {error.hint}"
        elif os.environ.get(CRIU_VARIABLE) and error.message_id == "criu-broken":
            found["hint"] = f"Remove {CRIU_VARIABLE} from the environment. {error.hint}"
        problems.append(found)
        return None


def _mode_entry(name: str, criu: CriuBinary | None) -> dict[str, Any]:
    reason = why_not(name, criu)
    return {"available": not reason, "why_not": reason or None}


def _native_paths() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for product in native_build.PRODUCTS:
        try:
            found[product.name] = str(native_build.native_path(product.name))
        except CheckpointError:
            found[product.name] = None
    return found


def _host() -> dict[str, str]:
    return {"system": platform.system(), "kernel": platform.release(),
            "machine": platform.machine(), "python": platform.python_version(),
            "prefix": sys.prefix}
