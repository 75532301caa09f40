"""Processes that are not our children: a look-alike of one, and the end of a kernel's."""

from __future__ import annotations

import os
import signal

from ..box.hangup import reset_on_end
from ..procfs import ProcessId, descendants, readable
from ..record import Record

UNKNOWN_EXIT_CODE = -1
"""Only a parent learns an exit code; a kernel's parent is its box."""


class AttachedProcess:
    """What jupyter_client expects of a `subprocess.Popen`, by pid file descriptor.

    A pid file descriptor names one process for ever, so a recycled pid is
    never signalled. Like Popen, signals to a dead process do nothing: the
    restarter relies on it.
    """

    stdin = stdout = stderr = None

    def __init__(self, identity: ProcessId) -> None:
        """Attach to a process; one that is gone or was replaced counts as dead."""
        self.pid = identity.pid
        self.returncode: int | None = None
        self._fd = -1
        try:
            self._fd = os.pidfd_open(identity.pid)
        except OSError:
            self.returncode = UNKNOWN_EXIT_CODE
            return
        # Checked after opening: the descriptor now pins whoever it names.
        if not identity.is_alive():
            self._mark_dead()

    def poll(self) -> int | None:
        """Return None while the process runs, an unknown exit code afterwards."""
        if self.returncode is None and readable([self._fd], 0):
            self._mark_dead()
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of the process, at most `timeout_s` seconds."""
        if self.returncode is None and readable([self._fd], timeout_s):
            self._mark_dead()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal the process, and its process group when it leads one."""
        if self.poll() is not None:
            return
        try:
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            self._mark_dead()

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _mark_dead(self) -> None:
        self.returncode = UNKNOWN_EXIT_CODE
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def kill_tree(record: Record) -> None:
    """Send SIGKILL to everything in a box; the pids are checked by start time."""
    if record.init is not None and record.init.is_alive():
        reset_on_end(descendants(record.init.pid))  # the ports are needed again
        # The kernel ends a pid namespace together with its PID 1.
        AttachedProcess(record.init).kill()
        return
    top = record.root if record.root is not None and record.root.is_alive() else record.kernel
    if top is None or not top.is_alive():
        return
    tree = descendants(top.pid)
    reset_on_end(tree)
    # Parents first, so that none lives to replace a child.
    for identity in filter(None, map(ProcessId.of, tree)):
        AttachedProcess(identity).kill()
