"""Stale records: what is left of sessions when kernel and agent are both gone.

After a restart of the machine, or when somebody killed everything at once.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from .agent import exchange
from .agent_place import take
from .errors import AgentUnreachable, KernelNotFound, RecordCorrupt
from .locations import Locations
from .offers import PLANNED, how_ended, in_words, leave_offer
from .procfs import ProcessId
from .record import RECORD_NAME, Record, all_records, read_record
from .remains import try_to_end_remains

log = logging.getLogger(__name__)
REBOOTED = "the machine was restarted"
ALL_KILLED = "everything was killed"
PLACE_S = 0.05
"""How long the place of the one agent is tried for."""


def sweep(locations: Locations) -> None:
    """Turn records whose kernel and agent are both gone into offers, and clean up.

    Done by whoever looks first: a server that starts, ``jupyter ckpt ps``. What
    a living server shows is left to that server.
    """
    for record in all_records(locations.runtime_dir)[0]:
        if not _is_stale(record):
            continue
        try:
            place = take(locations.folder(record.kernel_id), deadline_s=PLACE_S)
            if place is not None:
                try:
                    _clear(locations, record)
                finally:
                    place.leave()
        except AgentUnreachable:
            continue  # an agent is coming up
        except OSError as error:  # its record stays, or what is left of it, for the next to look
            log.warning("What is left of kernel %s cannot be cleared: %s", record.kernel_id, error)


def _clear(locations: Locations, record: Record) -> None:
    """Offer one stale session and remove what is left of it, unless it changed meanwhile."""
    folder = locations.folder(record.kernel_id)
    try:
        if read_record(folder) != record:
            return
        offer_gone(locations, record)
    except (KernelNotFound, RecordCorrupt):
        return
    except OSError as error:
        log.warning("the session of kernel %s cannot be offered: %s", record.kernel_id, error)
        return  # its record stays, for the next to look
    try_to_end_remains(folder)
    exchange.settle(folder, record)
    shutil.rmtree(folder, ignore_errors=True)
    if record.connection_file:
        with suppress(OSError):
            Path(record.connection_file).unlink(missing_ok=True)


def _is_stale(record: Record) -> bool:
    if record.is_alive() or record.is_unfinished():
        return False
    try:
        owner = ProcessId.from_dict(record.owner) if record.owner else None
    except (KeyError, TypeError, ValueError):
        owner = None
    return not any(one is not None and one.is_alive() for one in (record.agent, owner))


def offer_gone(locations: Locations, record: Record) -> None:
    """Leave an offer of a session that nobody saw end, unless it ended as planned.

    Raises OSError; then there is none.
    """
    folder = locations.folder(record.kernel_id)
    ended = how_ended(folder)
    if ended in PLANNED or record.kernel is None:
        return
    if ended is not None:
        leave_offer(locations, record, in_words(ended))
    elif (folder / RECORD_NAME).stat().st_mtime < boot_time():
        leave_offer(locations, record, REBOOTED)
    else:
        leave_offer(locations, record, ALL_KILLED)


def boot_time() -> float:
    """Return when this machine was started, in seconds since the epoch."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
