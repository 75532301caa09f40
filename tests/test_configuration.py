"""Store and criu of Jupyter's configuration files, for the command line as for the server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fake_kernels import KERNEL_ID, Shell, a_manifest, stored
from jupyter_server.serverapp import ServerApp

from jupyter_ckpt.configuration import FILES, Configuration
from jupyter_ckpt.errors import UsageError
from jupyter_ckpt.server import backend
from jupyter_ckpt.serverext import CheckpointApp
from jupyter_ckpt.store import Store

CRIU = "JUPYTER_CKPT_CRIU"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder."""
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv(CRIU, "")  # also puts back what a verb sets
    (tmp_path / "config").mkdir()
    return tmp_path / "config"


@pytest.fixture
def shell(folder: Path, capsys) -> Shell:
    return Shell(capsys, folder.parent)


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_current", None)


def write(path: Path, **options: str) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps({"CheckpointApp": options}))
    else:
        path.write_text("".join(
            f"c.CheckpointApp.{name} = {value!r}\n" for name, value in options.items()))


def of_the_server() -> CheckpointApp:
    """Return the extension as a server makes it that is started now."""
    server, app = ServerApp(), CheckpointApp()
    server.load_config_file()
    app._link_jupyter_server_extension(server)
    return app


def test_without_files_nothing_is_chosen(folder: Path) -> None:
    assert Configuration.load() == Configuration("", "")
    assert Configuration.load().store is None


@pytest.mark.parametrize("names", [
    *[[f"{name}.{ending}"] for name in FILES for ending in ("py", "json")],
    [f"{name}.py" for name in FILES], [f"{name}.json" for name in FILES],
    ["jupyter_server_config.py", "jupyter_server_config.json"],
    ["jupyter_ckpt_config.json", "jupyter_config.py"],
])
def test_the_server_and_the_command_line_read_the_same(folder: Path, names: list[str]) -> None:
    for name in names:
        write(folder / name, store_dir=f"/store/of/{name}")
    app = of_the_server()
    assert app.store_dir == Configuration.load().store_dir
    assert app.store_dir.startswith("/store/of/")


def test_options_of_several_files_come_together(folder: Path) -> None:
    write(folder / "jupyter_server_config.py", store_dir="~/kept")
    write(folder / "jupyter_ckpt_config.json", criu="/opt/criu")
    found = Configuration.load()
    assert (found.store, found.criu) == (Path("~/kept").expanduser(), "/opt/criu")


@pytest.mark.parametrize(("name", "content"), [
    ("jupyter_server_config.py", "c.CheckpointApp.store_dir ="),
    ("jupyter_server_config.py", "1/0"),
    ("jupyter_server_config.py", "import sys; sys.exit(3)"),
    ("jupyter_server_config.py", "c.CheckpointApp.store_dir = 7"),
    ("jupyter_ckpt_config.json", "{"),
    ("jupyter_ckpt_config.json", '{"CheckpointApp": 3}'),
    ("jupyter_ckpt_config.json", '{"CheckpointApp": {"criu": null}}'),
])
def test_a_broken_file_is_one_sentence_and_exit_code_2(
        shell: Shell, folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    for verb in ("list", "ps", "gc", "doctor", "quota"):
        error = shell.run(verb, "--json").error
        assert (error["code"], error["id"]) == (2, "usage")
        assert str(folder / name) in error["message"]
        assert "\n" not in error["message"]
    with pytest.raises(UsageError):
        Configuration.load()


def test_what_a_file_prints_is_no_part_of_the_answer(shell: Shell, folder: Path) -> None:
    (folder / "jupyter_server_config.py").write_text("print('hello')\n")
    ran = shell.run("list", "--json")
    assert ran.document == []
    assert "hello" in ran.err


def test_verbs_look_at_the_configured_store_unless_another_is_named(
        shell: Shell, folder: Path, tmp_path: Path) -> None:
    there, named = tmp_path / "there", tmp_path / "named"
    write(folder / "jupyter_server_config.py", store_dir=str(there))
    found = stored(Store.open(there), a_manifest())
    other = stored(Store.open(named), a_manifest())
    assert [m["id"] for m in shell.run("list", "--json").document] == [found.id]
    assert [m["id"] for m in shell.run("list", "--store", str(named), "--json").document] == [
        other.id]
    assert not shell.locations.store_dir.exists()


def test_the_configured_criu_is_judged_and_told_to_agents(
        shell: Shell, folder: Path, tmp_path: Path) -> None:
    missing = tmp_path / "criu"
    write(folder / "jupyter_ckpt_config.py", criu=str(missing))
    ran = shell.run("doctor", "--json")
    assert ran.document["process"] is False
    assert any(str(missing) in problem["message"] for problem in ran.document["problems"])
    assert shell.run("setup", "--json").error["id"] == "criu-missing"
    assert os.environ[CRIU] == str(missing)


def test_a_save_goes_into_the_store_of_the_kernels_own_agent(
        shell: Shell, folder: Path, tmp_path: Path) -> None:
    write(folder / "jupyter_server_config.py", store_dir=str(tmp_path / "configured"))
    shell.kernels.add(store=str(tmp_path / "own"))
    ran = shell.run("save", KERNEL_ID, "--name", "mine")
    assert ran.code == 0
    assert f"restore mine --store {tmp_path / 'own'}" in ran.err
    assert [m.name for m in Store.open(tmp_path / "own").manifests()] == ["mine"]
    assert not (tmp_path / "configured").exists()
    assert shell.run("save", "--name", "mine", "--json").error["id"] == "name-taken"
    assert shell.run("save", "--name", "mine", "--store", str(tmp_path / "x"), "--json").code == 0


def test_a_provisioner_without_the_extension_uses_the_configuration(
        folder: Path, no_backend: None) -> None:
    write(folder / "jupyter_server_config.py", store_dir="/somewhere/else")
    assert backend.current().locations.store_dir == Path("/somewhere/else")


def test_a_broken_file_keeps_no_kernel_from_starting(folder: Path, no_backend: None) -> None:
    (folder / "jupyter_server_config.py").write_text("1/0")
    assert backend.current().locations.store_dir == folder.parent / "data" / "ckpt"
