"""The end of a kernel as its server sees it: nobody else may be left to tell of it."""

from __future__ import annotations

import contextlib
import shutil
import time

from .. import offers
from ..client import AgentClient
from ..errors import AgentUnreachable, CheckpointError, KernelNotFound, RecordCorrupt
from ..locations import Locations
from ..protocol import Job
from ..record import Record, read_record

END_DEADLINE_S = 10.0
POLL_S = 0.02


def wait_for_end(locations: Locations, record: Record, client: AgentClient) -> None:
    """Wait for the agent to clean up; clean up for one that is dead.

    One that is still storing the last state of its kernel is waited for; it gives up
    by itself what does not get on. A kernel of the same id may be started right
    afterwards. What the record says on disk counts: whoever asks may have read it
    long ago, and the agent has been another and saved the kernel since. Raises
    `AgentUnreachable` when it does not end.
    """
    folder = locations.folder(record.kernel_id)
    deadline = time.monotonic() + END_DEADLINE_S
    while any(agent is not None and agent.is_alive()
              for agent in (record.agent, _present(locations, record).agent)):
        if time.monotonic() > deadline and not _is_at_work(client):
            raise AgentUnreachable(f"The agent of kernel {record.kernel_id} does not end.",
                                   f"Its log is {folder / 'agent.log'}.")
        time.sleep(POLL_S)
    with contextlib.suppress(KernelNotFound, RecordCorrupt):
        present = read_record(folder)
        if present.kernel == record.kernel:
            # Nobody else can tell of its end any more: kernel and agent are both dead.
            offers.bury(locations, present)
            shutil.rmtree(folder, ignore_errors=True)


def _is_at_work(client: AgentClient) -> bool:
    try:
        jobs = client.status()["jobs"]
        return not all(Job.from_dict(job).finished for job in jobs)
    except (CheckpointError, KeyError, TypeError):
        return False


def _present(locations: Locations, record: Record) -> Record:
    """Return what the record says by now; `record` where it tells of this kernel no more."""
    try:
        present = read_record(locations.folder(record.kernel_id))
    except (KernelNotFound, RecordCorrupt):
        return record
    return present if present.kernel == record.kernel else record
