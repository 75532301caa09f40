"""What a server writes into a record while no agent, or a new one, looks after the kernel."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path

import pytest

from jupyter_ckpt.agent_place import lock_path, take
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, read_record, write_record
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.journal import SessionJournal

ID = "kernel-0001"


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    backend = Backend(Locations(tmp_path / "ckpt", tmp_path, tmp_path / "store"))
    backend.folder(ID).mkdir(parents=True)
    write_record(backend.folder(ID), Record(ID, kernel=ProcessId.of(os.getpid())))
    backend.owner = {"pid": 1, "start_time": 1, "root_dir": "/", "url": ""}
    return backend


def test_session_is_noted_where_no_agent_lives(backend: Backend) -> None:
    backend.note_session(backend.record(ID), {"id": "s"}, "/a/b.ipynb")
    noted = read_record(backend.folder(ID))
    assert (noted.session, noted.notebook, noted.owner) == (
        {"id": "s"}, "/a/b.ipynb", backend.owner)
    assert not lock_path(backend.folder(ID)).exists()


def test_note_waits_for_who_has_the_place_and_loses_nothing_of_it(backend: Backend) -> None:
    folder = backend.folder(ID)
    place = take(folder)
    assert place is not None
    noting = threading.Thread(
        target=backend.note_session, args=(backend.record(ID), None, "/a/b.ipynb"))
    noting.start()
    theirs = read_record(folder)
    theirs.parent = "a" * 16
    write_record(folder, theirs)
    place.leave()
    noting.join(60)
    noted = read_record(folder)
    assert (noted.notebook, noted.parent) == ("/a/b.ipynb", "a" * 16)


def test_sessions_of_a_kernel_are_noted_in_turn_and_no_lock_stays(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SessionJournal(backend, None, Path, logging.getLogger())
    numbers = iter(range(3))
    monkeypatch.setattr(journal, "session_of", lambda kernel_id: ({"id": next(numbers)}, None))
    noting, noted = threading.Lock(), []

    def note(record: Record, session: dict[str, int], notebook: None) -> None:
        assert noting.acquire(blocking=False), "another is being noted"
        noted.append(session["id"])
        noting.release()

    monkeypatch.setattr(backend, "note_session", note)

    async def note_all() -> None:
        await asyncio.gather(*(journal.note(ID) for _ in range(3)))

    asyncio.run(note_all())
    assert noted == [0, 1, 2]
    assert not journal._writing
