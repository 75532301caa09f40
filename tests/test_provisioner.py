"""The provisioner, with and without a server, with and without checkpoints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.connect import LocalPortCache, write_connection_file
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_harness import Home, StartServer, wait_until

from jupyter_ckpt.errors import LaunchFailed
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.provisioner import CheckpointProvisioner
from jupyter_ckpt.record import Record, write_record
from jupyter_ckpt.server import backend
from jupyter_ckpt.server.attached import AttachedProcess, kill_tree
from jupyter_ckpt.server.backend import Backend
from jupyter_ckpt.server.connection import connect_to, ports_of

pytest_plugins = ["jupyter_fixtures"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def identity_of(process: subprocess.Popen[bytes]) -> ProcessId:
    found = ProcessId.of(process.pid)
    assert found is not None
    return found


# -- the process look-alike -------------------------------------------------------------
def test_attached_process_is_polled_signalled_and_waited_for(
    sleeper: subprocess.Popen[bytes]
) -> None:
    attached = AttachedProcess(identity_of(sleeper))
    assert attached.poll() is None
    assert attached.wait(0) is None
    attached.terminate()
    assert attached.wait(10) is not None
    assert sleeper.wait() == -signal.SIGTERM
    attached.kill()  # like Popen: nothing once it is dead
    assert attached.poll() is not None


def test_attached_process_with_recycled_pid_counts_as_dead(
    sleeper: subprocess.Popen[bytes]
) -> None:
    attached = AttachedProcess(ProcessId(sleeper.pid, 1))
    assert attached.poll() is not None
    attached.kill()
    assert sleeper.poll() is None


def test_attached_process_that_is_gone_counts_as_dead(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    sleeper.kill()
    sleeper.wait()
    assert AttachedProcess(identity).poll() is not None


def test_kill_tree_without_pid_namespace_ends_every_descendant() -> None:
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    child = ProcessId.of(int(shell.stdout.readline()))
    assert child is not None
    kill_tree(Record("some-kernel", root=ProcessId.of(shell.pid), kernel=child))
    assert shell.wait() == -signal.SIGKILL
    wait_until(lambda: not child.is_alive(), 10)
    shell.stdout.close()


def test_connection_file_that_is_missing_is_named_and_changes_nothing(tmp_path: Path) -> None:
    manager = KernelManager()
    manager.shell_port = 17
    record = Record("some-kernel", connection_file=str(tmp_path / "gone.json"))
    with pytest.raises(LaunchFailed, match="some-kernel"):
        connect_to(manager, record)
    assert manager.shell_port == 17


# -- starting, attaching and starting again ----------------------------------------------------
KERNEL = "11111111-aaaa-4000-8000-000000000001"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    place = Backend(Locations(tmp_path / "ckpt", tmp_path, tmp_path / "store"))
    monkeypatch.setattr(backend, "_current", place)
    return place


def living(place: Backend, kernel: ProcessId) -> Record:
    """Leave the record and the connection file of a kernel."""
    file, _ = write_connection_file(str(place.locations.connection_file(KERNEL)), key=b"its own")
    record = Record(KERNEL, kernel=kernel, connection_file=file, cwd="/")
    place.folder(KERNEL).mkdir(mode=0o700, parents=True)
    write_record(place.folder(KERNEL), record)
    return record


def provisioner_of(manager: KernelManager) -> CheckpointProvisioner:
    return CheckpointProvisioner(
        kernel_id=KERNEL, parent=manager, kernel_spec=KernelSpec(argv=["true"]))


def test_start_under_the_id_of_a_living_kernel_is_refused_and_leaves_its_connection_file(
    place: Backend, sleeper: subprocess.Popen[bytes]
) -> None:
    record = living(place, identity_of(sleeper))
    before = Path(record.connection_file).read_bytes()
    manager = KernelManager(connection_file=record.connection_file)
    with pytest.raises(LaunchFailed, match="lives already"):
        asyncio.run(provisioner_of(manager).pre_launch())
    assert Path(record.connection_file).read_bytes() == before
    sleeper.kill()
    sleeper.wait()
    manager._kernel_spec = KernelSpec(argv=["true"])
    asyncio.run(provisioner_of(manager).pre_launch())


def test_restart_of_an_adopted_kernel_keeps_its_ports_which_nobody_else_gets_meanwhile(
    place: Backend, sleeper: subprocess.Popen[bytes]
) -> None:
    record = living(place, identity_of(sleeper))
    ports = ports_of(record)
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(argv=["true"])
    provisioner = provisioner_of(manager)
    used = LocalPortCache.instance().currently_used_ports

    async def adopt_and_restart() -> None:
        await provisioner.pre_launch(attach=record)
        await provisioner.launch_kernel([])
        assert set(ports) <= used
        sleeper.kill()
        sleeper.wait()
        write_record(place.folder(KERNEL), record)
        await provisioner.cleanup(restart=True)
        await provisioner.pre_launch()
        assert list(manager.ports) == ports
        await provisioner.cleanup(restart=False)

    asyncio.run(adopt_and_restart())
    assert not used & set(ports)


# -- without a server ---------------------------------------------------------------------
PROGRAM = """
import json, logging, os, sys
logging.basicConfig()
from jupyter_client.manager import start_new_kernel
from jupyter_ckpt.server import backend

def ask(client, code):
    printed = []
    def hook(message):
        content = message["content"]
        printed.append(content.get("text", "") or content.get("ename", ""))
    client.execute_interactive(code, timeout=60, output_hook=hook)
    return "".join(printed).strip()

manager, client = start_new_kernel(kernel_name="python3")
provisioner = manager.provisioner
said = {"provisioner": type(provisioner).__name__, "boxed": provisioner.record is not None}
"""


def run_program(home: Home, program: str, **env: str) -> dict[str, object]:
    """Run PROGRAM and `program` as a user of the provisioner; return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program + "\nprint(json.dumps(said))"],
        env={**home.env, "JUPYTER_DEFAULT_PROVISIONER_NAME": "ckpt-provisioner", **env},
        cwd=home.notebooks, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode != 0:
        home.end_all_kernels()
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    found["stderr"] = done.stderr
    return found


def nothing_left(home: Home) -> bool:
    folder = home.runtime / "ckpt"
    kernels = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return not kernels and not list(home.runtime.glob("kernel-*.json"))


def test_headless_kernel_lives_in_a_box_and_leaves_nothing(real_home: Home) -> None:
    said = run_program(real_home, """
said["parent"] = ask(client, "import os; print(os.environ.get('JPY_PARENT_PID'))")
said["argv0"] = ask(client, "print(open('/proc/self/cmdline').read().split(chr(0))[0])")
said["cwd"] = ask(client, "print(os.getcwd())")
init = provisioner.record.init
child = ask(client, "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid)")
client.stop_channels()
manager.shutdown_kernel()
said["box_alive"] = init.is_alive()
""")
    assert said["boxed"] is True
    assert said["parent"] == "None"
    assert os.path.isabs(str(said["argv0"]))
    assert said["cwd"] == str(real_home.notebooks)
    assert said["box_alive"] is False
    assert nothing_left(real_home)


def test_new_kernel_gets_ports_that_the_system_gives_to_nobody(real_home: Home) -> None:
    given_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if given_from < 20_000:
        pytest.skip("this system gives nearly all ports away")
    said = run_program(real_home, """
from jupyter_client.connect import LocalPortCache
said["ports"] = manager.ports
said["noted"] = sorted(LocalPortCache.instance().currently_used_ports)
client.stop_channels()
manager.shutdown_kernel()
said["left"] = sorted(LocalPortCache.instance().currently_used_ports)
""")
    ports = said["ports"]
    assert isinstance(ports, list)
    assert all(1024 < port < given_from for port in ports)
    assert (said["noted"], said["left"]) == (sorted(ports), [])


def test_headless_kernel_is_interrupted_restarted_and_killed(real_home: Home) -> None:
    said = run_program(real_home, """
ask(client, "x = 1")
client.execute("import time; print('sleeping', flush=True)\\nwhile True: time.sleep(.01)")
while client.get_iopub_msg(timeout=30)["content"].get("text", "") != "sleeping\\n":
    continue
manager.interrupt_kernel()
said["interrupted"] = client.get_shell_msg(timeout=30)["content"]["status"]
first = provisioner.record
manager.restart_kernel(now=True)
client.wait_for_ready(timeout=60)
second = provisioner.record
said["same_id"] = first.kernel_id == second.kernel_id
said["other_process"] = first.kernel != second.kernel
said["old_box_alive"] = first.init.is_alive()
said["x"] = ask(client, "print('x' in globals())")
manager.restart_kernel(newports=True)
client.stop_channels()
client = manager.client(); client.start_channels(); client.wait_for_ready(timeout=60)
said["new_ports"] = ask(client, "print('there')")
client.stop_channels()
manager.shutdown_kernel(now=True)
""")
    assert said["interrupted"] == "error"
    assert (said["same_id"], said["other_process"], said["old_box_alive"]) == (True, True, False)
    assert (said["x"], said["new_ports"]) == ("False", "there")
    assert nothing_left(real_home)


def test_notebook_is_executed_by_nbclient(real_home: Home) -> None:
    path = real_home.write_notebook("n.ipynb", "x = 20", "print(x + 1)")
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", str(path)],
        env={**real_home.env, "JUPYTER_DEFAULT_PROVISIONER_NAME": "ckpt-provisioner"},
        capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(path.read_text())["cells"][1]["outputs"]
    assert "".join(outputs[0]["text"]) == "21\n"
    assert nothing_left(real_home)


def test_kernel_that_cannot_start_says_why(real_home: Home) -> None:
    spec = real_home.folder / "data" / "kernels" / "broken"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps(
        {"argv": ["/no/such/program", "{connection_file}"], "display_name": "Broken",
         "language": "python"}))
    done = subprocess.run(
        [sys.executable, "-c", "from jupyter_client.manager import KernelManager\n"
         "KernelManager(kernel_name='broken').start_kernel()"],
        env={**real_home.env, "JUPYTER_DEFAULT_PROVISIONER_NAME": "ckpt-provisioner"},
        capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode != 0
    assert "LaunchFailed" in done.stderr
    assert not (real_home.runtime / "ckpt").is_dir() or real_home.records() == []


# -- where no checkpoint is possible -----------------------------------------------------------
@pytest.fixture
def plain_home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.mark.parametrize("env", [
    {"JUPYTER_CKPT_MODE": "none"}, {"JUPYTER_CKPT_CRIU": "/no/such/criu"}])
def test_kernel_is_an_ordinary_one_where_no_checkpoint_is_possible(
    plain_home: Home, env: dict[str, str]
) -> None:
    said = run_program(plain_home, """
said["parent"] = ask(client, "import os; print(os.environ.get('JPY_PARENT_PID'))")
said["pid"] = str(os.getpid())
client.stop_channels()
manager.shutdown_kernel()
""", **env)
    assert (said["provisioner"], said["boxed"]) == ("CheckpointProvisioner", False)
    assert said["parent"] == said["pid"]
    assert str(said["stderr"]).count("Kernels start without checkpoints") == 1
    assert nothing_left(plain_home)


@pytest.mark.parametrize("switch", [
    "--CheckpointApp.use_for_local_kernels=False", "--CheckpointProvisioner.enabled=False"])
def test_server_with_the_switch_off_starts_ordinary_kernels(
    plain_home: Home, start: StartServer, switch: str
) -> None:
    server = start(plain_home, switch)
    kernel_id = server.open_session("a.ipynb")["kernel"]["id"]
    assert server.connect(kernel_id).run("print(1)") == "1"
    assert plain_home.records() == []
    answer = server.request("POST", f"/api/ckpt/kernels/{kernel_id}/checkpoints", {})
    assert (answer.status_code, answer.json()["error"]["id"]) == (409, "not-our-kernel")
