"""Starting a kernel in a box of its own."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..box import Box, NamespaceBox, OpenBox
from ..box.namespaces import EMPTY_DEADLINE_S, FIRST_PID_FLOOR
from ..errors import LaunchFailed, ProtocolError
from ..faults import point
from ..offers import ENDED_NAME
from ..plan import Schedule
from ..procfs import ProcessId, children_of_all
from ..protocol import Job
from ..record import Record
from ..remains import end_remains
from .kernel import Kernel, free_alias, identify
from .recordfile import RecordFile
from .tools import Tools

START_DEADLINE_S = 20.0
STARTUP_FILE = Path(__file__).parent.parent / "inkernel" / "startup.py"
_ENV_KEPT = ("JPY_SESSION_NAME",)


def launch(
    tools: Tools, record_file: RecordFile, request: dict[str, Any], job: Job
) -> Kernel:
    """Start the kernel that `request` describes and return it.

    Called by the agent for ``PUT /launches``. Raises `LaunchFailed` or
    `ModeUnavailable`; then nothing of the kernel runs.
    """
    folder = record_file.folder
    job.enter("launching")
    cmd, env = request["cmd"], request["env"]
    if not cmd:
        raise ProtocolError("A launch needs 'cmd', a list of at least one word.")
    mode = tools.mode()
    record = _record(request, mode, folder.name)
    box = make_box(tools, record_file, mode)
    try:
        # Known before it holds a kernel: should we die now, the next agent ends it.
        record.init, record.agent = box.init, ProcessId.of(os.getpid())
        record_file.write(record)
        point("launch.boxed")
        root_inner = box.start_root(
            cmd, _environment(env, box, tools, record), record.cwd, _umask(request))
        kernel_host = _first_child(box, root_inner, folder)
        point("launch.started")
        identify(box, record, root_inner, box.inner_pid(kernel_host) or 0)
    except BaseException:
        with ExitStack() as undoing:  # each in turn, whatever another meets
            undoing.callback(record_file.remove)
            undoing.callback(box.stop, record.kernel)
        raise
    return Kernel(record, box, folder)


def make_box(
    tools: Tools, record_file: RecordFile, mode: str, alias: str | None = None,
    pid_floor: int = FIRST_PID_FLOOR, empty_deadline_s: int = EMPTY_DEADLINE_S,
) -> Box:
    """Make an empty box of the mode's kind for the kernel whose record that is.

    Whatever box an agent left there that was killed is ended first. Raises
    `AgentUnreachable` when the place is another agent's: its box is not ours to end.
    """
    record_file.check_place()
    folder = record_file.folder
    end_remains(folder)
    (folder / ENDED_NAME).unlink(missing_ok=True)  # of an earlier life
    if mode == "caps":
        return OpenBox.create(tools.box_binary, folder, alias or free_alias(folder))
    return NamespaceBox.create(tools.box_binary, folder, mode, pid_floor, empty_deadline_s)


def _record(request: dict[str, Any], mode: str, kernel_id: str) -> Record:
    env = request["env"]
    return Record(
        kernel_id=kernel_id, kernel_name=str(request.get("kernel_name", "python3")),
        language=str(request.get("language", "python")), mode=mode,
        cwd=str(request.get("cwd") or os.path.expanduser("~")),
        connection_file=str(request.get("connection_file", "")),
        owner=request.get("owner"), session=request.get("session"),
        notebook=request.get("notebook"), injected=request.get("language") == "python",
        env={name: env[name] for name in _ENV_KEPT if name in env},
        schedule=Schedule.from_dict(request.get("schedule")))


def _umask(request: dict[str, Any]) -> int:
    """Return the umask of whoever asked: the agent's own is stricter."""
    umask = request.get("umask", 0o022)
    if type(umask) is not int or not 0 <= umask <= 0o777:
        raise ProtocolError("'umask' is a number up to 0o777.")
    return umask


def _environment(
    env: dict[str, str], box: Box, tools: Tools, record: Record
) -> dict[str, str]:
    """Return the kernel's environment with the shim and the in-kernel part."""
    found = {str(name): str(value) for name, value in env.items()}
    # Its parent in the box is not the server: the poller would end the kernel.
    found.pop("JPY_PARENT_PID", None)
    preload = [str(tools.shim), *filter(None, [found.get("LD_PRELOAD")])]
    found["LD_PRELOAD"] = ":".join(preload)
    if isinstance(box, OpenBox):
        found["JUPYTER_CKPT_SHM_HIDDEN"] = box.hidden_shm
    if record.injected:
        if "PYTHONSTARTUP" in found:
            found["JUPYTER_CKPT_USER_STARTUP"] = found["PYTHONSTARTUP"]
        found["PYTHONSTARTUP"] = str(STARTUP_FILE)
        found["JUPYTER_CKPT_RUNTIME"] = box.inner_runtime
    return found


def _first_child(box: Box, root_inner: int, folder: Path) -> int:
    """Wait for the dump root's child, the kernel; return its host pid."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        root = box.host_pid(root_inner)
        if root is None or ProcessId.of(root) is None:
            break
        for child in children_of_all().get(root, ()):
            return child
        time.sleep(0.005)
    raise LaunchFailed(f"The kernel did not start.{log_tail(folder)}",
                       "Check the kernelspec's command with 'jupyter kernelspec list --json'.")


def log_tail(folder: Path) -> str:
    """Return the last line of the kernel's log as ' Its last words: ...'."""
    try:
        lines = (folder / "kernel.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" Its last words: {lines[-1]}" if lines else ""
