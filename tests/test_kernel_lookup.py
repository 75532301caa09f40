"""Which kernel a KERNEL of the command line means, by the records on disk."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_ckpt.cli.main import main
from jupyter_ckpt.errors import (
    AmbiguousId,
    CheckpointError,
    KernelNotFound,
    MalformedId,
    NotOurKernel,
    RecordCorrupt,
)
from jupyter_ckpt.kernel_lookup import find_kernel
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, write_record

FIRST, SECOND = "1111aaaa-0001", "1111bbbb-0002"
AddKernel = Callable[..., Path]


@pytest.fixture
def locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Locations:
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return Locations.default()


@pytest.fixture
def add(locations: Locations) -> AddKernel:
    """Add a kernel that lives: its record names this very process."""
    def added(kernel_id: str = FIRST, text: str | None = None, **fields: object) -> Path:
        folder = locations.folder(kernel_id)
        folder.mkdir(mode=0o700, parents=True)
        own = ProcessId.of(os.getpid())
        record = Record(kernel_id, kernel=own, root=own,
                        connection_file=str(locations.connection_file(kernel_id)))
        for name, value in fields.items():
            setattr(record, name, value)
        write_record(folder, record)
        if text is not None:
            (folder / "record.json").write_text(text)
        return folder / "record.json"
    return added


@pytest.mark.parametrize("text", ["", " ", "\t\n", "a\0b", "x" * 5000])
def test_what_can_name_no_kernel_is_no_name_of_the_only_one(
        locations: Locations, add: AddKernel, text: str) -> None:
    add()
    with pytest.raises(MalformedId) as caught:
        find_kernel(locations, text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("verb", [
    ["save"], ["list"], ["fork"], ["stop"], ["schedule"], ["schedule", "--off"]])
def test_an_unset_variable_is_a_usage_error_of_every_verb(
        locations: Locations, add: AddKernel, capsys, verb: list[str]) -> None:
    record = add()
    assert main([*verb, "", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["id"] == "malformed-id"
    assert record.exists()


def test_a_prefix_has_four_characters(locations: Locations, add: AddKernel) -> None:
    add()
    assert find_kernel(locations, FIRST[:4]).kernel_id == FIRST
    with pytest.raises(KernelNotFound, match="too short") as caught:
        find_kernel(locations, FIRST[:3])
    assert "4 characters" in caught.value.hint


def test_a_notebook_with_a_short_name_is_found(locations: Locations, add: AddKernel) -> None:
    add(notebook=str(Path("j").absolute()))
    assert find_kernel(locations, "j").kernel_id == FIRST


def test_several_kernels_are_ambiguous(locations: Locations, add: AddKernel) -> None:
    add(FIRST)
    add(SECOND)
    for text in (None, "1111"):
        with pytest.raises(AmbiguousId) as caught:
            find_kernel(locations, text)
        assert (caught.value.exit_code, caught.value.http_status) == (2, 409)
        assert FIRST[:8] in caught.value.message
        assert SECOND[:8] in caught.value.message


@pytest.mark.parametrize("text", [FIRST, FIRST[:6], f"kernel-{FIRST}.json", None])
@pytest.mark.parametrize("content", ["{", "[]", '{"kernel_id": "another-kernel"}'])
def test_a_record_that_cannot_be_read_is_named(
        locations: Locations, add: AddKernel, content: str, text: str | None) -> None:
    path = add(text=content)
    with pytest.raises(RecordCorrupt) as caught:
        find_kernel(locations, text)
    assert str(path) in caught.value.message
    assert caught.value.exit_code == 7


def test_a_record_that_cannot_be_read_hides_no_other(
        locations: Locations, add: AddKernel) -> None:
    path = add(FIRST, "{")
    add(SECOND)
    assert find_kernel(locations, SECOND[:5]).kernel_id == SECOND
    assert find_kernel(locations, None).kernel_id == SECOND
    with pytest.raises(AmbiguousId):
        find_kernel(locations, "1111")
    with pytest.raises(KernelNotFound) as caught:
        find_kernel(locations, "job.ipynb")
    assert str(path) in caught.value.hint


@pytest.mark.parametrize("verb", ["save", "fork", "stop", "schedule", "list"])
def test_verbs_name_the_record_that_cannot_be_read(
        locations: Locations, add: AddKernel, capsys, verb: str) -> None:
    path = add(text="{")
    assert main([verb, FIRST, "--json"]) == 7
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["id"] == "record-corrupt"
    assert str(path) in error["message"]


@pytest.mark.parametrize("spelling", ["name", "path", "link"])
def test_a_connection_file_is_found_by_its_name_alone(
        locations: Locations, add: AddKernel, spelling: str) -> None:
    add()
    path = locations.connection_file(FIRST)
    path.write_text("{}")
    Path("link.json").symlink_to(path)
    text = {"name": path.name, "path": str(path), "link": "link.json"}[spelling]
    assert find_kernel(locations, text).kernel_id == FIRST


@pytest.mark.parametrize("spelling", ["id", "name", "path"])
def test_a_kernel_of_somebody_else_is_said_to_be_one(
        locations: Locations, spelling: str) -> None:
    locations.connection_dir.mkdir(parents=True)
    path = locations.connection_file(FIRST)
    text = {"id": FIRST, "name": path.name, "path": str(path)}[spelling]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        path.write_text(json.dumps(
            {"ip": "127.0.0.1", "shell_port": listening.getsockname()[1]}))
        with pytest.raises(NotOurKernel):
            find_kernel(locations, text)
    with pytest.raises(KernelNotFound):
        find_kernel(locations, text)


@pytest.mark.parametrize("content", ["", "[]", '{"ip": 1, "shell_port": []}', "[" * 9000,
                                     '{"ip": "127.0.0.1", "shell_port": 99999999}'])
def test_a_file_that_is_no_connection_file_names_no_kernel(
        locations: Locations, content: str) -> None:
    Path("odd.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        find_kernel(locations, "odd.json")
    assert caught.type is KernelNotFound
