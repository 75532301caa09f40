"""Which Jupyter server a kernel belongs to, and what happens through it."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError, NotPossibleHere
from ..procfs import ProcessId
from ..record import Record
from .call import Call
from .servers import RunningServer, running_servers


def owner_of(call: Call, record: Record) -> RunningServer | None:
    """Return the server that shows a living kernel, None for a headless kernel.

    Raises `NotPossibleHere` when the kernel belongs to a server that lives
    but cannot be found: changing the kernel behind its back would make it
    start a fresh one.
    """
    servers = running_servers(call.locations.connection_dir)
    pid = int((record.owner or {}).get("pid") or 0)
    for server in servers:
        if server.pid == pid:
            return server
    for server in servers:
        if server.shows_kernel(record.kernel_id):
            return server
    if record.owner and _lives(record.owner):
        raise NotPossibleHere(
            f"Kernel {record.kernel_id} belongs to the Jupyter server with pid {pid}, "
            "which cannot be reached.",
            "Use the same JUPYTER_RUNTIME_DIR as that server, or --no-server.")
    return None


def _lives(owner: dict[str, Any]) -> bool:
    try:
        identity = ProcessId.from_dict(owner)
    except (KeyError, TypeError, ValueError):
        return False
    return identity is not None and identity.is_alive()


def server_for(call: Call, notebook: str | None, kernel_id: str) -> RunningServer | None:
    """Return the server to bring a kernel back through when none shows it now.

    That is the one with the deepest root folder that contains the notebook;
    None when there is none, so that the kernel comes back headless.

    Raises `NotPossibleHere` when the only candidates lack our extension or
    do not let this command in.
    """
    if not notebook:
        return None
    candidates = [s for s in running_servers(call.locations.connection_dir) if s.contains(notebook)]
    candidates.sort(key=lambda server: not server.shows_kernel(kernel_id))
    problem: CheckpointError | None = None
    for server in candidates:
        try:
            server.check()
            return server
        except NotPossibleHere as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def end_through(server: RunningServer, kernel_id: str) -> bool:
    """Let a server end a kernel and its session; False if it does not show it.

    Raises `NotPossibleHere` when the server refuses.
    """
    path = f"api/kernels/{kernel_id}"
    for session in server.ask("GET", "api/sessions").data or ():
        if isinstance(session, dict) and (session.get("kernel") or {}).get("id") == kernel_id:
            path = f"api/sessions/{session['id']}"
    status = server.ask("DELETE", path, timeout_s=60.0).status
    if status in (204, 404):
        return status == 204
    raise NotPossibleHere(f"The Jupyter server at {server.url} would not end the kernel "
                          f"(HTTP {status}).", "Shut the kernel down in JupyterLab.")


