"""Which checkpoint stands for a session that is to be ended: never one it has gone beyond."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_kernels import KERNEL_ID, OTHER_ID, a_manifest, stored
from faulty_kernel import Kernel
from inkernel_harness import until
from session_kit import Shell, Talker, shell_in
from store_kit import rot

from jupyter_ckpt import kernels, parking
from jupyter_ckpt.agent import proven
from jupyter_ckpt.agent.activity import SAME_CPU_S, Mark
from jupyter_ckpt.agent.saving import _is_its_own
from jupyter_ckpt.agent.storing import PROVEN_WARNING
from jupyter_ckpt.errors import ChunkCorrupt
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record, read_record
from jupyter_ckpt.store import Store

NOTEBOOK = "/home/ada/job.ipynb"


# -- beyond doubt ---------------------------------------------------------------------------
def mark(**changes: Any) -> Mark:
    fields: dict[str, Any] = {"cells": 3, "busy": False, "cpu_s": 10.0, "at": 0.0, "callbacks": 2}
    return Mark(**{**fields, **changes})


def test_kernel_is_the_same_only_beyond_doubt() -> None:
    later = {"at": 1e6}  # however long it has been: nobody's work is noise
    assert mark(**later).is_same(mark())
    assert mark(cpu_s=10.0 + SAME_CPU_S / 2, **later).is_same(mark())
    for changes in ({"cpu_s": 10.05}, {"cells": 4}, {"callbacks": 3}, {"callbacks": None},
                    {"cells": None}, {"busy": True}, {"background": True}):
        assert not mark(**later, **changes).is_same(mark()), changes
    for before in ({"busy": True}, {"background": True}, {"cells": None}, {"callbacks": None}):
        assert not mark(**later).is_same(mark(**before)), before
    unknown = {"cells": None, "callbacks": None}
    assert not mark(**unknown).is_same(mark(**unknown))


def test_processor_time_is_compared_in_whole_ticks() -> None:
    """Sums of floats are not exact: two ticks are two ticks, wherever they are counted from."""
    tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
    allowed = round(SAME_CPU_S / tick_s)
    for ticks in range(600):
        before = mark(cpu_s=ticks * tick_s)
        assert mark(cpu_s=(ticks + allowed) * tick_s, at=before.at + 60).is_same(before)
        assert not mark(cpu_s=(ticks + allowed + 1) * tick_s, at=before.at + 60).is_same(before)


def test_kernel_without_an_earlier_state_is_the_same_if_it_never_ran_code() -> None:
    assert mark(cells=0).is_same(None)
    assert not mark(cells=None).is_same(None)
    assert not mark(cells=1).is_same(None)


def test_mark_of_an_older_version_proves_nothing() -> None:
    old = Mark.from_dict({"cells": 3, "busy": False, "cpu_s": 10.0, "at": 0.0})
    assert old is not None
    assert not mark().is_same(old)
    assert Mark.from_dict(mark().to_dict()) == mark()
    assert Mark.from_dict({**mark().to_dict(), "callbacks": "2"}) is None


@pytest.mark.parametrize(("manifest", "request_", "own"), [
    ({}, {}, True),
    ({}, {"document": {"path": NOTEBOOK}}, True),
    ({}, {"document": {"path": "/home/ada/renamed.ipynb"}}, False),
    ({"kernel_id": OTHER_ID}, {}, False),
    ({"notebook": {"path": "/home/ada/copy.ipynb", "sha256": ""}}, {}, False),
    ({"notebook": None}, {}, False)])
def test_only_a_checkpoint_of_this_kernel_and_notebook_stands_for_it(
        manifest: dict[str, Any], request_: dict[str, Any], own: bool) -> None:
    made = a_manifest(**{"notebook": {"path": NOTEBOOK, "sha256": ""}, **manifest})
    kernel: Any = SimpleNamespace(record=Record(KERNEL_ID, notebook=NOTEBOOK))
    assert _is_its_own(made, kernel, request_) is own


# -- damage -----------------------------------------------------------------------------------
class FakeKernel:
    prove_next = False

    def distrust(self) -> None:
        self.prove_next = True


def rot_all(store: Store) -> None:
    for path in (store.root / "chunks").rglob("*"):
        if path.is_file():
            rot(path)


def test_damaged_save_is_made_once_more_from_memory(tmp_path: Path) -> None:
    store, kernel, forgotten = Store.open(tmp_path / "store"), FakeKernel(), []
    stored(store, a_manifest())
    rot_all(store)

    def make() -> Manifest:
        manifest = a_manifest()
        with store.transaction("a-request", prove_reused=kernel.prove_next) as transaction:
            transaction.add_bytes("images/pages-1.img", b"memory" * 20_000)
            return transaction.commit(manifest)

    made = proven.read_back(
        store, kernel, Job("job-00000001", "checkpoints"), make,  # type: ignore[arg-type]
        lambda: forgotten.append(1))
    assert store.verify([made.id])["bad"] == []
    assert (len(store.manifests()), forgotten, kernel.prove_next) == (2, [1], True)


def test_save_that_is_damaged_twice_is_an_error(tmp_path: Path) -> None:
    store, kernel, made = Store.open(tmp_path / "store"), FakeKernel(), []

    def make() -> Manifest:
        made.append(stored(store, a_manifest()))
        rot_all(store)
        return made[-1]

    with pytest.raises(ChunkCorrupt):
        proven.read_back(store, kernel,  # type: ignore[arg-type]
                         Job("job-00000001", "checkpoints"), make)
    assert len(made) == 2


# -- real sessions ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with shell_in("root") as shell:
        yield shell


class Parked:
    """A session on a notebook that is about to be parked."""

    def __init__(self, shell: Shell, name: str) -> None:
        runtime = shell.home / "runtime"
        self.place = Locations(runtime / "ckpt", runtime, shell.store)
        self.notebook = shell.home / name
        self.notebook.write_text(
            '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
        started = shell.ckpt("start", "--notebook", str(self.notebook))
        self.id = started["kernel_id"]
        self.talker = Talker(started["connection_file"])

    def secure(self) -> Manifest:
        record = read_record(self.place.folder(self.id))
        manifest = parking.secure(self.place, record, trigger="cull")
        assert manifest is not None
        return manifest


def test_session_changed_by_a_widget_or_renamed_is_saved_again(shell: Shell) -> None:
    session = Parked(shell, "widget.ipynb")
    session.talker.run(
        "seen = []\nget_ipython().kernel.comm_manager.register_target("
        "'t', lambda comm, message: seen.append(len(seen)))")
    first = session.secure()
    again = session.secure()
    channel = session.talker.client.session
    session.talker.client.shell_channel.send(
        channel.msg("comm_open", {"comm_id": "c", "target_name": "t", "data": {}}))
    deadline = time.monotonic() + 60
    while (widget := session.secure()).id in (first.id, again.id):
        assert time.monotonic() < deadline, "what the widget did is lost"
    renamed = str(shell.home / "renamed.ipynb")
    os.rename(session.notebook, renamed)
    kernels.live_agent(session.place, read_record(session.place.folder(session.id))).note_session(
        notebook=renamed)
    moved = session.secure()
    assert moved.id != widget.id
    assert (moved.notebook or {})["path"] == renamed
    session.talker.close()


def test_rotten_chunk_does_not_make_all_later_checkpoints_bad(shell: Shell) -> None:
    session = Parked(shell, "rot.ipynb")
    session.talker.run("x = b'x' * 10**7")
    store = Store.open(shell.store)
    first = shell.ckpt("save", session.id)
    rot_all(store)
    parked = session.secure()  # nothing has changed: the first would do, were it whole
    assert parked.id != first["id"]
    assert PROVEN_WARNING in parked.warnings
    assert store.verify([parked.id])["bad"] == []
    rot_all(store)
    session.talker.run("y = 1")
    parked = session.secure()  # found by reading back what was just saved
    assert PROVEN_WARNING in parked.warnings
    assert store.verify([parked.id])["bad"] == []
    session.talker.close()


def test_safety_copy_that_met_a_rotten_chunk_is_made_once_more(tmp_path: Path) -> None:
    with shell_in("root") as shell:
        kernel = Kernel(shell, tmp_path)
        kernel.talker.run("x = b'x' * 10**7")
        saved, store = shell.ckpt("save", kernel.id), Store(shell.store)
        kernel.talker.run("x = None")
        kernel.arm({"point": "restore.unpacked", "act": "hang"})
        restored: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: restored.append(
            shell.ckpt("restore", saved["id"], "--in-place", "--no-server")))
        thread.start()
        until(lambda: kernel.passed("restore.unpacked"), "what is restored was read")
        rot_all(store)
        kernel.arm()
        thread.join()
        assert PROVEN_WARNING in restored[0]["warnings"]
        [safety] = [m for m in store.manifests() if m.purpose == "before-restore"]
        assert store.verify([safety.id])["bad"] == []
        kernel.talker.wait_until_ready()
        assert kernel.talker.run("print(len(x))") == "10000000"
        kernel.talker.close()
