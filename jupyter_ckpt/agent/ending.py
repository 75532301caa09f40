"""The end of a kernel: waiting for it, and knowing one that has begun to end."""

from __future__ import annotations

import os

from ..errors import KernelNotFound
from ..procfs import ProcessId, readable
from ..record import Record

WORD_S = 2.0
"""How long the dump root may take to write how its kernel ended."""


def await_end(record: Record) -> None:
    """Return when the kernel of `record` has ended and its dump root has told how."""
    _wait_for(record.kernel)
    if record.root is not None and record.root.is_alive():
        _wait_for(record.root, WORD_S)


def refuse_dying(record: Record) -> None:
    """Raise `KernelNotFound` for a kernel that an agent began to stop before it died."""
    victims = [each for each in (record.init, record.root, record.kernel) if each is not None]
    if record.recover is not None and any(victim.is_ending() for victim in victims):
        raise KernelNotFound(f"Kernel {record.kernel_id} was stopped to be replaced.")


def _wait_for(process: ProcessId | None, timeout_s: float | None = None) -> None:
    assert process is not None
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.is_alive():  # asked with the handle in hand: no other can take the pid
            readable([handle], timeout_s)
    finally:
        os.close(handle)
