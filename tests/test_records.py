"""Records, manifests and hosts: what is read from disk is checked before it is believed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jupyter_ckpt.agent.host import check_compatible, cpu, describe
from jupyter_ckpt.errors import (
    FormatTooNew,
    KernelNotFound,
    ManifestCorrupt,
    RecordCorrupt,
    RestoreRefused,
    UsageError,
)
from jupyter_ckpt.kernels import list_kernels
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest, checked_name, new_id, utc_now
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, all_records, read_record, write_record


def manifest(**changes: Any) -> dict[str, Any]:
    found = Manifest(new_id(), utc_now(), {"id": "k"}, "0" * 64).to_dict()
    return found | changes


def test_record_survives_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    own = ProcessId.of(os.getpid())
    record = Record("kernel-0001", kernel=own, root=own, notebook="/a/b.ipynb")
    write_record(folder, record)
    assert read_record(folder) == record
    assert (folder / "record.json").stat().st_mode & 0o777 == 0o600
    assert record.is_alive()


def test_record_keeps_what_a_later_version_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    written = Record("kernel-0001").to_dict() | {"of_the_future": [1], "later": "a name"}
    (folder / "record.json").write_text(json.dumps(written))
    record = read_record(folder)
    record.notebook = "/a/b.ipynb"
    write_record(folder, record)
    assert json.loads((folder / "record.json").read_bytes()) == (
        written | {"notebook": "/a/b.ipynb"})


def test_record_of_a_recycled_pid_is_not_alive() -> None:
    assert not Record("kernel-0001", kernel=ProcessId(os.getpid(), 1)).is_alive()


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '"text"', "{}", '{"kernel_id": 5}', '{"kernel_id": "../../etc"}',
    '{"kernel_id": "kernel-0001", "kernel": {"pid": "many"}}', '{"kernel_id": "other-kernel"}',
    "\x00\xff", "[" * 5000])
def test_corrupt_record_is_named_and_hides_no_other(tmp_path: Path, text: str) -> None:
    folder, good = tmp_path / "kernel-0001", tmp_path / "kernel-0002"
    folder.mkdir()
    good.mkdir()
    write_record(good, Record("kernel-0002"))
    (folder / "record.json").write_text(text)
    with pytest.raises(RecordCorrupt):
        read_record(folder)
    records, problems = all_records(tmp_path)
    assert [r.kernel_id for r in records] == ["kernel-0002"]
    assert len(problems) == 1


def test_missing_record_means_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound):
        read_record(tmp_path / "kernel-0001")


def test_stale_record_shows_no_kernel(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt" / "kernel-0001"
    folder.mkdir(parents=True)
    write_record(folder, Record("kernel-0001", kernel=ProcessId(os.getpid(), 1)))
    assert list_kernels(Locations(tmp_path / "ckpt", tmp_path, tmp_path / "store")) == []


def test_manifest_survives_json() -> None:
    data = manifest(name="a name")
    assert Manifest.from_dict(json.loads(json.dumps(data))).to_dict() == data


@pytest.mark.parametrize("change", [
    {"id": "../x"}, {"id": 7}, {"content": "short"}, {"kernel": None}, {"files": {}},
    {"pause_s": "long"}, {"pinned": "yes"}, {"parked": 1},
    {"purpose": []}])
def test_manifest_with_wrong_types_is_corrupt(change: dict[str, Any]) -> None:
    with pytest.raises(ManifestCorrupt):
        Manifest.from_dict(manifest(**change))


def test_manifest_of_a_newer_format_says_so_whatever_else_it_holds() -> None:
    with pytest.raises(FormatTooNew, match="format 99"):
        Manifest.from_dict({"id": "0" * 12, "format": 99})


def test_manifest_ignores_fields_of_later_versions() -> None:
    assert Manifest.from_dict(manifest(later="thing")).to_dict().get("later") is None


@pytest.mark.parametrize("name", ["", " ", "abcd", "0123456789", "-x", "a/b", "a\nb", "x" * 101])
def test_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        checked_name(name)


def test_same_machine_is_compatible() -> None:
    assert check_compatible(describe("4.2"), cpu()[1]) == []


def test_processor_that_lacks_a_feature_is_refused_by_its_name() -> None:
    with pytest.raises(RestoreRefused, match="amx_of_the_future"):
        check_compatible(describe("4.2"), [*cpu()[1], "amx_of_the_future"])


def test_checkpoint_of_another_user_is_refused() -> None:
    with pytest.raises(RestoreRefused, match="user id"):
        check_compatible(describe("4.2") | {"uid": os.getuid() + 1}, [])


def test_checkpoint_of_another_architecture_is_refused() -> None:
    other = "s390x" if platform.machine() != "s390x" else "x86_64"
    with pytest.raises(RestoreRefused, match=other):
        check_compatible(describe("4.2") | {"machine": other}, [])


def test_other_kernel_release_is_a_warning() -> None:
    assert len(check_compatible(describe("4.2") | {"kernel_release": "5.10"}, [])) == 1


def test_process_that_was_killed_is_ending_before_it_is_gone() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    found = ProcessId.of(process.pid)
    assert found is not None
    assert not found.is_ending()
    process.kill()
    assert found.is_ending()
    process.wait()
    assert found.is_ending()
