"""Sessions that ended unplanned: who is offered what, and for how long."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_kernels import a_manifest, stored
from jupyter_harness import wait_until
from record_kit import GONE
from session_kit import Shell, Talker, shell_in

from jupyter_ckpt import offers, stale
from jupyter_ckpt.agent.jobs import JobTable
from jupyter_ckpt.agent.schedule import Scheduler
from jupyter_ckpt.errors import RestoreRefused
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.plan import Schedule
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, write_record
from jupyter_ckpt.server.backend import NOT_REVIVED, Backend
from jupyter_ckpt.store import Store

KERNEL = "11111111-aaaa-4000-8000-000000000001"


@pytest.fixture
def places(tmp_path: Path) -> Locations:
    found = Locations(tmp_path / "ckpt", tmp_path, tmp_path / "store")
    found.runtime_dir.mkdir(mode=0o700)
    return found


def dead(places: Locations, **changes: object) -> Record:
    """Leave the record of a kernel that is gone, with its agent."""
    folder = places.folder(KERNEL)
    folder.mkdir(mode=0o700, exist_ok=True)
    record = Record(KERNEL, kernel=GONE, agent=GONE, notebook="/n/a.ipynb",
                    connection_file=str(places.connection_file(KERNEL)))
    record = replace(record, **changes)  # type: ignore[arg-type]
    write_record(folder, record)
    places.connection_file(KERNEL).write_text("{}")
    return record


def checkpoint(places: Locations, **changes: object) -> Manifest:
    return stored(Store.open(places.store_dir), a_manifest(KERNEL, **changes))


# -- whose session, and which checkpoint ------------------------------------------------------
@pytest.mark.parametrize(("ended", "how"), [
    ("signal 9\n", "killed by signal 9, out of memory?"),
    ("signal 11\n", "crashed with signal 11, SIGSEGV"), ("signal 99\n", "crashed with signal 99"),
    ("exit 3\n", "ended with exit code 3")])
def test_crash_is_offered_with_how_it_ended(places: Locations, ended: str, how: str) -> None:
    record = dead(places)
    saved = checkpoint(places)
    (places.folder(KERNEL) / offers.ENDED_NAME).write_text(ended)
    offers.bury(places, record)
    [offer] = offers.all_offers(places.runtime_dir)
    assert (offer.kernel_id, offer.notebook, offer.how, offer.checkpoint,
            offer.checkpoint_created_at) == (KERNEL, "/n/a.ipynb", how, saved.id, saved.created_at)
    path = places.runtime_dir / "offers" / f"{KERNEL}.json"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("ended", ["exit 0\n", "signal 15\n", None])
def test_planned_end_is_not_offered(places: Locations, ended: str | None) -> None:
    record = dead(places)
    if ended is not None:
        (places.folder(KERNEL) / offers.ENDED_NAME).write_text(ended)
    offers.bury(places, record)
    assert offers.all_offers(places.runtime_dir) == []


def test_checkpoint_that_was_restored_counts_and_not_the_state_it_replaced(
    places: Locations
) -> None:
    chosen = checkpoint(places, created_at="2026-01-01T00:00:00.000Z")
    own = checkpoint(places, created_at="2026-01-02T00:00:00.000Z")
    checkpoint(places, created_at="2026-01-03T00:00:00.000Z", purpose="before-restore")
    restored = dead(places, parent=chosen.id)
    assert offers.last_good(places, restored) == chosen
    assert offers.last_good(places, replace(restored, parent=None)) == own
    assert offers.last_good(places, replace(restored, parent="0" * 16)) == own


def test_session_without_checkpoint_is_offered_without_one(places: Locations) -> None:
    assert offers.leave_offer(places, dead(places), "x").checkpoint is None


@pytest.mark.parametrize(("asked_at", "goes"), [
    ("2026-01-01T11:59:59.000Z", True), ("2026-01-01T12:00:00.800Z", True),
    ("2026-01-01T12:00:03.000Z", False)])
def test_offer_of_a_kernel_that_crashes_when_asked_to_end_goes(
    places: Locations, asked_at: str, goes: bool
) -> None:
    """When it was asked is noted after the word is sent; what crashed long before is kept."""
    offers._written(places.runtime_dir, offers.Offer(
        KERNEL, None, "2026-01-01T12:00:00.000Z", "crashed with signal 11", None, None))
    assert Backend(places).dismiss_offer(KERNEL, asked_at) is goes
    assert (offers.find_offer(places.runtime_dir, KERNEL) is None) is goes


def test_offer_ends_when_restored_dismissed_or_old(places: Locations) -> None:
    record, saved = dead(places), checkpoint(places)
    offers.leave_offer(places, record, "x")
    assert offers.dismiss(places.runtime_dir, KERNEL)
    assert not offers.dismiss(places.runtime_dir, KERNEL)
    other = Store.open(places.store_dir).resolve(saved.id)
    for manifest in (saved, replace(other, kernel={"id": "another"}),
                     replace(other, id="0" * 16)):
        offers.leave_offer(places, record, "x")
        offers.withdraw(places.runtime_dir, manifest)
        assert offers.all_offers(places.runtime_dir) == []
    offer = offers.leave_offer(places, record, "x")
    offers.withdraw(places.runtime_dir, replace(other, id="0" * 16, kernel={"id": "another"}))
    assert offers.all_offers(places.runtime_dir) == [offer]
    path = places.runtime_dir / "offers" / f"{KERNEL}.json"
    old = (datetime.now(timezone.utc) - timedelta(days=31)).isoformat()
    path.write_text(json.dumps(offer.to_dict() | {"ended_at": old}))
    assert offers.all_offers(places.runtime_dir) == []
    assert not path.exists()


def test_offered_checkpoint_is_not_tidied_away(places: Locations) -> None:
    notebook = {"path": "/n/a.ipynb", "sha256": ""}
    saved = [checkpoint(places, trigger="interval", notebook=notebook, parent=None,
                        created_at=f"2026-01-{day:02}T00:00:00.000Z") for day in range(1, 10)]
    offers.leave_offer(places, dead(places, parent=saved[0].id), "x")
    agent: Any = SimpleNamespace(folder=places.runtime_dir / "another-kernel",
                                 tools=SimpleNamespace(store=lambda: Store.open(places.store_dir)))
    kernel: Any = SimpleNamespace(record=Record(
        "another-kernel", notebook="/n/a.ipynb", schedule=Schedule(every_s=60, keep=2)))
    Scheduler(agent, JobTable(), lambda request, job: {})._tidy(kernel)
    left = {manifest.id for manifest in Store.open(places.store_dir).manifests()}
    assert left == {saved[0].id, saved[-1].id, saved[-2].id}


class StubbornBackend(Backend):
    """One whose restores fail."""

    def restore(self, manifest: Manifest, **arguments: Any) -> dict[str, Any]:
        raise RestoreRefused("A library was upgraded.", "Install the old one.")


def test_parked_session_that_cannot_be_brought_back_is_offered(places: Locations) -> None:
    parked = checkpoint(places, parked=True, trigger="interval")
    with pytest.raises(RestoreRefused) as refused:
        StubbornBackend(places).revive(parked, parked=True)
    assert f"jupyter ckpt restore {parked.id}" in refused.value.hint
    assert not Store(places.store_dir).resolve(parked.id).parked
    [offer] = offers.all_offers(places.runtime_dir)
    assert (offer.checkpoint, offer.how) == (parked.id, NOT_REVIVED)
    offers.withdraw(places.runtime_dir, parked)
    assert offers.offered(places.runtime_dir) == set()


def test_parked_session_stays_parked_where_it_cannot_be_offered(places: Locations) -> None:
    parked = checkpoint(places, parked=True, trigger="interval")
    offers.offers_folder(places.runtime_dir).write_text("in the way")
    with pytest.raises(RestoreRefused):
        StubbornBackend(places).revive(parked, parked=True)
    assert Store(places.store_dir).resolve(parked.id).parked


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"kernel_id": 1}', "[" * 100_000, "\x00",
    json.dumps({"kernel_id": "../x", "notebook": None, "ended_at": "2026-01-01T00:00:00Z",
                "how": "x", "checkpoint": None, "checkpoint_created_at": None}),
    json.dumps({"kernel_id": KERNEL, "notebook": None, "ended_at": "soon",
                "how": "x", "checkpoint": None, "checkpoint_created_at": None})])
def test_offer_that_cannot_be_read_is_passed_over(places: Locations, text: str) -> None:
    offers.leave_offer(places, dead(places), "x")
    (places.runtime_dir / "offers" / "broken-kernel.json").write_text(text)
    assert [one.kernel_id for one in offers.all_offers(places.runtime_dir)] == [KERNEL]


def attempts(places: Locations, *checkpoints: str) -> list[bool]:
    """Return for each checkpoint whether it may be restored by itself now."""
    return [offers.attempt(places.runtime_dir, KERNEL, one) is None for one in checkpoints]


def test_checkpoint_is_restored_by_itself_only_once(places: Locations) -> None:
    offers.leave_offer(places, dead(places), "x")
    assert attempts(places, "aa", "bb", "aa", "bb") == [True, True, False, False]


def test_kernel_that_is_saved_anew_in_each_life_is_restored_by_itself_only_so_often(
    places: Locations
) -> None:
    offers.leave_offer(places, dead(places), "x")
    assert attempts(places, "aa", "bb", "cc", "dd", "ee") == [True, True, True, False, False]
    told = offers.attempt(places.runtime_dir, KERNEL, "dd")
    assert told == "this kernel was restored after a crash 3 times within 60 minutes"
    # An hour later one more; what was tried is never tried again.
    path = places.runtime_dir / "offers" / f"{KERNEL}.attempts"
    path.write_text("".join(f"{line.split()[0]} {float(line.split()[1]) - 3601}\n"
                            for line in path.read_text().splitlines()))
    assert attempts(places, "aa", "dd", "ee") == [False, True, True]


def test_attempts_of_an_older_version_or_without_sense_are_read(places: Locations) -> None:
    offers.leave_offer(places, dead(places), "x")
    (places.runtime_dir / "offers" / f"{KERNEL}.attempts").write_text("aa\nbb soon\n\ncc")
    assert attempts(places, "aa", "bb", "cc", "dd") == [False, False, False, True]


# -- stale records ------------------------------------------------------------------------------
def test_session_of_which_everything_was_killed_is_offered_and_cleaned_up(
    places: Locations
) -> None:
    dead(places)
    stale.sweep(places)
    assert [one.how for one in offers.all_offers(places.runtime_dir)] == [stale.ALL_KILLED]
    assert not places.folder(KERNEL).exists()
    assert not places.connection_file(KERNEL).exists()


def test_session_from_before_the_machine_started_is_offered(places: Locations) -> None:
    dead(places)
    before = stale.boot_time() - 60
    os.utime(places.folder(KERNEL) / "record.json", (before, before))
    stale.sweep(places)
    assert [one.how for one in offers.all_offers(places.runtime_dir)] == [stale.REBOOTED]


def test_stale_record_of_a_kernel_that_ended_as_planned_is_only_removed(places: Locations) -> None:
    dead(places)
    (places.folder(KERNEL) / offers.ENDED_NAME).write_text("exit 0\n")
    stale.sweep(places)
    assert offers.all_offers(places.runtime_dir) == []
    assert not places.folder(KERNEL).exists()


@pytest.mark.parametrize("who", ["kernel", "agent", "owner"])
def test_record_that_somebody_alive_stands_for_is_left_alone(places: Locations, who: str) -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    owner = {"pid": me.pid, "start_time": me.start_time, "root_dir": "/", "url": ""}
    dead(places, **{who: owner if who == "owner" else me})
    stale.sweep(places)
    assert (places.folder(KERNEL) / "record.json").exists()
    assert offers.all_offers(places.runtime_dir) == []


# -- real kernels, in each mode ---------------------------------------------------------------
@pytest.fixture(params=["root", "rootless", "caps"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    with shell_in(request.param) as shell:
        yield shell


def told(shell: Shell) -> str:
    """Return what ``jupyter ckpt ps`` says beside its table."""
    return " ".join(shell.run(sys.executable, "-m", "jupyter_ckpt.cli.main", "ps").stderr.split())


def test_crash_is_told_by_ps_and_a_planned_end_is_not(shell: Shell) -> None:
    started = shell.start()
    saved = shell.ckpt("save", started["kernel_id"])
    [row] = shell.ckpt("ps")
    os.kill(row["pid"], signal.SIGSEGV)
    wait_for_end(shell)
    said = told(shell)
    assert "crashed with signal 11, SIGSEGV" in said
    assert f"jupyter ckpt restore {saved['id']}" in said
    assert shell.ckpt("ps") == []

    # The dump root of a restored session tells, too.
    shell.ckpt("restore", saved["id"])
    assert "restore" not in told(shell)
    [row] = shell.ckpt("ps")
    os.kill(row["pid"], signal.SIGKILL)
    wait_for_end(shell)
    assert "killed by signal 9" in told(shell)
    again = shell.ckpt("restore", saved["id"])
    talker = Talker(again["connection_file"])
    talker.client.shutdown()
    wait_for_end(shell)
    talker.close()  # not before: what was not sent yet would be dropped
    assert "restore" not in told(shell)


def wait_for_end(shell: Shell) -> None:
    runtime = shell.home / "runtime" / "ckpt"
    wait_until(lambda: not list(runtime.glob("*/record.json"))
               and not list(runtime.glob("*/agent.sock")), 30, "kernel and agent end")
