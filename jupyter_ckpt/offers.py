"""Offers: sessions that ended unplanned and can be brought back.

``<runtime>/ckpt/offers/<kernel_id>.json`` (0600 in a 0700 folder, by rename) is
left by the agent of a kernel that crashed, by whoever first finds a record
whose kernel and agent are both gone, or by a server that could not bring a
parked session back. It goes when that session is restored,
when somebody dismisses it, or after 30 days.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import CheckpointError, RecordCorrupt
from .faults import point
from .locations import Locations
from .manifest import Manifest, utc_now
from .protocol import checked_kernel_id
from .record import Record, write_private
from .store import Store

log = logging.getLogger(__name__)
ENDED_NAME = "ended"
"""Written into a runtime folder by the dump root when its kernel ends (native/box.c)."""
KEPT_S = 30 * 24 * 3600.0
ATTEMPTS_MOST = 3
ATTEMPTS_WINDOW_S = 3600.0
"""So often a kernel that crashes is brought back by itself within so many seconds."""
PLANNED = ("exit 0", f"signal {int(signal.SIGTERM)}")
_MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class Offer:
    """One session that can be brought back; the fields are the public JSON."""

    kernel_id: str
    notebook: str | None
    ended_at: str
    how: str
    checkpoint: str | None
    """Its last good checkpoint; None when it never had one."""
    checkpoint_created_at: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Offer:
        """Return the offer in `data`; raise `RecordCorrupt` on a bad shape."""
        try:
            offer = cls(**{name: data[name] for name in cls.__dataclass_fields__})
            checked_kernel_id(offer.kernel_id)
            for text in (offer.ended_at, offer.checkpoint_created_at):
                if text is not None:
                    seconds_of(text)
            if not all(isinstance(value, (str, type(None))) for value in data.values()):
                raise TypeError("a field is not a text")
        except Exception as error:
            raise RecordCorrupt(f"The offer is malformed: {error!r}.") from error
        return offer


def seconds_of(moment: str) -> float:
    """Return a moment (ISO 8601) in seconds since the epoch; raises `ValueError`."""
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def offers_folder(runtime_dir: Path) -> Path:
    """Return where offers lie, beside the kernels' runtime folders."""
    return runtime_dir / "offers"


def all_offers(runtime_dir: Path) -> list[Offer]:
    """Return the offers that stand, the latest first; those out of date are removed.

    One that cannot be read is passed over.
    """
    found = []
    for path in sorted(offers_folder(runtime_dir).glob("*.json")):
        offer = _read(path)
        if offer is None:
            continue
        if time.time() - seconds_of(offer.ended_at) > KEPT_S:
            path.unlink(missing_ok=True)
            _attempts(runtime_dir, offer.kernel_id).unlink(missing_ok=True)
        else:
            found.append(offer)
    return sorted(found, key=lambda offer: offer.ended_at, reverse=True)


def offered(runtime_dir: Path) -> set[str]:
    """Return the ids of the checkpoints that are offered: they must not be tidied away."""
    return {offer.checkpoint for offer in all_offers(runtime_dir) if offer.checkpoint is not None}


def find_offer(runtime_dir: Path, kernel_id: str) -> Offer | None:
    return _read(offers_folder(runtime_dir) / f"{checked_kernel_id(kernel_id)}.json")


def _read(path: Path) -> Offer | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return Offer.from_dict(json.loads(file.read(_MAX_BYTES)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, RecordCorrupt) as error:
        log.warning("the offer %s cannot be read: %s", path, error)
        return None


def dismiss(runtime_dir: Path, kernel_id: str) -> bool:
    """Remove the offer of a kernel; tell whether there was one."""
    path = offers_folder(runtime_dir) / f"{checked_kernel_id(kernel_id)}.json"
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def withdraw(runtime_dir: Path, manifest: Manifest) -> None:
    """Remove the offers that are kept now: this checkpoint or its kernel was restored."""
    for offer in all_offers(runtime_dir):
        if offer.checkpoint == manifest.id or offer.kernel_id == manifest.kernel.get("id"):
            dismiss(runtime_dir, offer.kernel_id)


def attempt(runtime_dir: Path, kernel_id: str, checkpoint_id: str) -> str | None:
    """Note, before it is tried, that a checkpoint is restored by itself after a crash.

    Returns why it must not be, and notes nothing then: no checkpoint is tried
    twice, and no kernel more than `ATTEMPTS_MOST` times within
    `ATTEMPTS_WINDOW_S`. A session that crashes again and again would be brought
    back for ever else: saved for want of memory in each life, it has another
    checkpoint each time.
    """
    path = _attempts(runtime_dir, kernel_id)
    lines = path.read_text().splitlines() if path.exists() else []
    if checkpoint_id in [line.partition(" ")[0] for line in lines]:
        return f"checkpoint {checkpoint_id} was restored after a crash before"
    now = time.time()
    # One noted in the future (the clock was set back) counts, too.
    lately = [line for line in lines if now - _noted_at(line) < ATTEMPTS_WINDOW_S]
    if len(lately) >= ATTEMPTS_MOST:
        return (f"this kernel was restored after a crash {len(lately)} times "
                f"within {ATTEMPTS_WINDOW_S / 60:.0f} minutes")
    write_private(path, "\n".join([*lines, f"{checkpoint_id} {now:.0f}"]).encode())
    return None


def _noted_at(line: str) -> float:
    """Return when an attempt was noted, in seconds since the epoch; 0: nobody knows."""
    try:
        return float(line.partition(" ")[2])
    except ValueError:
        return 0.0


def _attempts(runtime_dir: Path, kernel_id: str) -> Path:
    return offers_folder(runtime_dir) / f"{checked_kernel_id(kernel_id)}.attempts"


# -- making offers ------------------------------------------------------------------------


def how_ended(folder: Path) -> str | None:
    """Return what the dump root wrote about the end of the kernel of `folder`.

    None: nothing, since the whole box was ended at once, on purpose.
    """
    try:
        return (folder / ENDED_NAME).read_text()[:40].strip() or None
    except (OSError, ValueError):
        return None


def in_words(ended: str) -> str:
    """Return ``exit N`` or ``signal N`` as part of a sentence."""
    kind, _, number = ended.partition(" ")
    if kind != "signal":
        return f"ended with exit code {number}"
    if number == str(int(signal.SIGKILL)):
        return f"killed by signal {number}, out of memory?"
    try:
        return f"crashed with signal {number}, {signal.Signals(int(number)).name}"
    except ValueError:
        return f"crashed with signal {number}"


def leave_offer(locations: Locations, record: Record, how: str) -> Offer:
    """Write the offer of a session that ended unplanned, in place of an older one."""
    last = last_good(locations, record)
    return _written(locations.runtime_dir, Offer(
        record.kernel_id, record.notebook, utc_now(), how,
        last.id if last else None, last.created_at if last else None))


def offer_again(runtime_dir: Path, manifest: Manifest, how: str) -> Offer:
    """Write the offer of a session that was parked and could not be brought back.

    Raises `OSError`, or `ProtocolError` for a checkpoint of no kernel.
    """
    kernel_id = checked_kernel_id(manifest.kernel.get("id"))
    path = (manifest.notebook or {}).get("path")
    return _written(runtime_dir, Offer(
        kernel_id, path, utc_now(), how, manifest.id, manifest.created_at))


def _written(runtime_dir: Path, offer: Offer) -> Offer:
    folder = offers_folder(runtime_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / f"{offer.kernel_id}.json", json.dumps(offer.to_dict()).encode())
    point("offer.written")
    return offer


def last_good(locations: Locations, record: Record) -> Manifest | None:
    """Return the checkpoint nearest to a kernel's last state.

    What it was last saved to or restored from; the state that a restore had
    replaced is newer, but not what its user wanted.
    """
    try:
        manifests = Store.open(locations.store_dir, create=False).manifests()
    except CheckpointError:
        return None
    parent = [m for m in manifests if m.id == record.parent]
    own = [m for m in manifests
           if m.kernel.get("id") == record.kernel_id and m.purpose != "before-restore"]
    return next(iter([*parent, *own]), None)


def bury(locations: Locations, record: Record) -> None:
    """Leave an offer if the kernel of `record`, which is gone, was seen to crash."""
    ended = how_ended(locations.folder(record.kernel_id))
    if ended is not None and ended not in PLANNED:
        leave_offer(locations, record, in_words(ended))
