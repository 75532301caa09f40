"""How much a store may hold: setting it, measuring, and what goes when there is more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import server_fakes
from fake_kernels import KERNEL_ID, OTHER_ID, a_manifest, stored
from fake_kernels import Shell as FakeShell
from jupyter_harness import Home, Server
from session_kit import Talker, shell_in

from jupyter_ckpt.agent import overflow
from jupyter_ckpt.agent.overflow import relieve
from jupyter_ckpt.agent.proofs import Proofs
from jupyter_ckpt.errors import StoreUnusable
from jupyter_ckpt.store import Store
from jupyter_ckpt.store import quota as module

Saved = Callable[..., str]
KB = 1000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def save(store: Store) -> Saved:
    """Saves checkpoints that take a little more than 100 kB each."""
    count = 0

    def one(kernel_id: str = KERNEL_ID, data: bytes | None = None, **changes: Any) -> str:
        nonlocal count
        count += 1
        changes.setdefault("trigger", "interval")
        manifest = a_manifest(kernel_id, created_at=f"2026-01-01T00:{count:02}:00.000Z", **changes)
        return stored(store, manifest, data=data or os.urandom(100 * KB)).id

    return one


def ids(store: Store) -> set[str]:
    return {m.id for m in store.manifests()}


def on_disk(store: Store) -> int:
    return sum(path.stat().st_size for name in ("chunks", "manifests")
               for path in (store.root / name).rglob("*") if path.is_file())


# -- setting and measuring ----------------------------------------------------------------
def test_quota_stays_with_the_store(store: Store) -> None:
    assert store.quota_bytes() is None
    store.set_quota(5 * KB)
    assert Store.open(store.root).quota_bytes() == 5 * KB
    assert (store.root / "quota.json").stat().st_mode & 0o777 == 0o600
    store.set_quota(None)
    assert store.quota_bytes() is None


@pytest.mark.parametrize("text", ["", "[]", '{"size_bytes": 0}', '{"size_bytes": true}', "{",
                                  '{"size_bytes": "1"}', "[" * 4000, "\xff"])
def test_malformed_quota_is_named_and_can_be_set_again(store: Store, text: str) -> None:
    (store.root / "quota.json").write_text(text, encoding="latin-1")
    with pytest.raises(StoreUnusable, match="malformed"):
        store.quota_bytes()
    store.set_quota(7)
    assert store.quota_bytes() == 7


def test_usage_is_counted_once_and_added_up(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    save()
    assert store.usage_bytes() == on_disk(store)
    monkeypatch.setattr(module, "_bytes_below", lambda folder: pytest.fail("counted"))
    for _ in range(3):
        save()
    assert store.usage_bytes() == pytest.approx(on_disk(store), rel=0.05)


def test_usage_is_counted_anew_after_a_collection_and_a_day(
        store: Store, save: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save()
    save()
    before = store.usage_bytes()
    store.remove(first)
    store.collect()
    assert store.usage_bytes() == on_disk(store) < before - 100 * KB
    file = store.root / "usage.json"
    for stale in ({"size_bytes": 1, "counted_at_s": 0}, {"size_bytes": 1}, [], {}):
        file.write_text(json.dumps(stale))
        assert store.usage_bytes() == on_disk(store)
    file.write_text("{")
    save()  # never fails of it
    assert store.usage_bytes() == on_disk(store)


def test_without_a_quota_nothing_is_measured(store: Store, save: Saved) -> None:
    save()
    assert relieve(store, Proofs()) == []
    assert overflow.warning(store) is None
    assert not (store.root / "usage.json").exists()


# -- what goes ------------------------------------------------------------------------------
def test_oldest_automatic_ones_of_any_notebook_go_until_it_fits(store: Store, save: Saved) -> None:
    saved = [save(kernel_id) for kernel_id in (KERNEL_ID, OTHER_ID) * 3]
    store.set_quota(450 * KB)
    assert relieve(store, Proofs()) == saved[:2]
    assert ids(store) == set(saved[2:])
    assert on_disk(store) <= 450 * KB
    assert store.verify()["bad"] == []
    assert relieve(store, Proofs()) == []


def test_shared_chunks_do_not_count_as_freed(store: Store, save: Saved) -> None:
    shared = os.urandom(100 * KB)
    saved = [save(data=shared), save(data=shared), save(), save()]
    store.set_quota(250 * KB)
    assert relieve(store, Proofs()) == saved[:2]
    assert ids(store) == set(saved[2:])


@pytest.mark.parametrize("changes", [
    {"trigger": "manual"}, {"trigger": "magic"}, {"trigger": "api"}, {"name": "first"},
    {"pinned": True}, {"parked": True}])
def test_what_somebody_wants_stays_though_it_is_too_much(
        store: Store, save: Saved, changes: dict[str, Any]) -> None:
    wanted = save(**changes)
    old, last = save(), save()
    store.set_quota(10 * KB)
    assert relieve(store, Proofs()) == [old]
    assert ids(store) == {wanted, last}


def test_last_good_one_of_each_notebook_stays(store: Store, save: Saved) -> None:
    book = {"path": "/home/ada/job.ipynb", "sha256": ""}
    alone = save(OTHER_ID)
    good = save(notebook=book)
    damaged = save(notebook=book)
    before = {p for p in (store.root / "chunks").rglob("*") if p.is_file()}
    store.set_quota(10 * KB)
    for path in before:
        path.rename(path.with_suffix(".away"))
        if store.verify([alone, good])["bad"]:
            path.with_suffix(".away").rename(path)
    assert [b["id"] for b in store.verify()["bad"]] == [damaged]
    assert relieve(store, Proofs()) == []
    assert ids(store) == {alone, good, damaged}


def test_what_is_about_to_be_restored_stays(store: Store, save: Saved) -> None:
    saved = [save(), save(), save()]
    store.set_quota(10 * KB)
    assert relieve(store, Proofs(), lambda: {saved[0]}) == [saved[1]]


def test_warns_only_when_removing_will_not_do(store: Store, save: Saved) -> None:
    for _ in range(3):
        save()
    store.set_quota(250 * KB)
    assert overflow.warning(store) is None
    store.set_quota(10 * KB)
    text = overflow.warning(store) or ""
    assert "more than its quota" in text
    assert "jupyter ckpt rm" in text


# -- with the command line, a server, a session ------------------------------------------------
def test_verb_sets_shows_and_takes_away(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    shell = FakeShell(capsys, tmp_path)
    assert shell.run("quota").out.strip() == "No quota. The store holds 0 bytes."
    assert shell.run("quota", "20G").out.strip() == "The store holds 0 bytes of at most 20 GB."
    assert shell.run("quota", "--json").document == {
        "quota_bytes": 20_000_000_000, "used_bytes": 0}
    assert shell.run("quota", "much", "--json").error["id"] == "usage"
    assert shell.run("quota", "off", "--json").document["quota_bytes"] is None


def test_server_writes_its_quota_into_the_store(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.configure(f'{server_fakes.CONFIGURATION}\nc.CheckpointApp.quota = "20G"\n')
    server = Server(home)
    server.stop()
    assert Store.open(home.folder / "data" / "ckpt").quota_bytes() == 20_000_000_000


def test_server_names_a_file_limit_that_is_none_when_it_starts(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.configure(f'{server_fakes.CONFIGURATION}\nc.CheckpointApp.file_limit = "much"\n')
    server = Server(home)
    server.stop()
    assert "CheckpointApp.file_limit: 'much' is not an amount of bytes." in server.tail()


def test_session_saved_beyond_the_quota_is_saved_and_warned() -> None:
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        started = shell.start()
        kernel_id = started["kernel_id"]
        Talker(started["connection_file"]).close()  # it is up
        assert shell.ckpt("save", kernel_id)["warnings"] == []
        shell.ckpt("quota", "1M")
        saved = shell.ckpt("save", kernel_id)
        assert "more than its quota of 1.0 MB" in saved["warnings"][-1]
        assert len(shell.ckpt("list", kernel_id)) == 2
