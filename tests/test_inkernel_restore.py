"""What a restored kernel renews: history session, ports, key, ids, its own place.

The restore itself is played: between quiesce and "restored" the test writes what
the original process would have written in the meantime.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from inkernel_harness import PATIENCE_S, FakeAgent, InjectedKernel, manifest, text_of, until


@pytest.fixture
def kernel() -> Iterator[InjectedKernel]:
    kernel = InjectedKernel()
    yield kernel
    kernel.close()


def database(kernel: InjectedKernel) -> Path:
    return kernel.folder / "ipy" / "profile_default" / "history.sqlite"


def lines(kernel: InjectedKernel) -> list[tuple[int, int, str]]:
    with closing(sqlite3.connect(database(kernel), timeout=PATIENCE_S)) as conn:
        return list(conn.execute("SELECT session, line, source_raw FROM history ORDER BY 1, 2"))


def play_original(kernel: InjectedKernel, session: int, *numbers: int) -> None:
    """Write the lines that the original process goes on to write."""
    with closing(sqlite3.connect(database(kernel), timeout=PATIENCE_S)) as conn, conn:
        for number in numbers:
            conn.execute("INSERT INTO history VALUES (?, ?, 'original', 'original')",
                         (session, number))


def history_session(kernel: InjectedKernel) -> int:
    return int(kernel.value("get_ipython().history_manager.session_number"))


def test_history_goes_on_in_a_new_session_after_an_idle_restore(kernel: InjectedKernel) -> None:
    session = history_session(kernel)
    assert kernel.op("quiesce", request_id="request-1")["ok"]
    assert [n for s, n, _ in lines(kernel)] == [1]
    play_original(kernel, session, 2, 3, 4)
    assert kernel.op("restored", checkpoint=manifest(), epoch=2)["warnings"] == []
    for number in (2, 3):
        assert kernel.run(f"x = {number}") == ""
    until(lambda: len(lines(kernel)) == 6, "both lines in the database")
    assert {s for s, n, text in lines(kernel) if text.startswith("x = ")} == {session + 1}
    assert "not unique" not in kernel.log.read_text()


def test_history_goes_on_in_a_new_session_after_a_restore_in_a_cell(
        kernel: InjectedKernel) -> None:
    session = history_session(kernel)
    cell = kernel.start("import time\nprint('begun', flush=True)\n"
                        "while not globals().get('go'): time.sleep(.01)")
    until(lambda: kernel.op("running")["outputs"], "running")
    assert kernel.op("quiesce", request_id="request-1")["ok"]
    assert [n for _, n, _ in lines(kernel)] == [1, 2]
    play_original(kernel, session, 3, 4)
    # The restored process may run on before the agent has said so: end the cell now.
    os.kill(kernel.process.pid, signal.SIGINT)
    text = text_of(kernel.finish(cell))
    assert kernel.run("early = 1") == ""
    assert len(lines(kernel)) == 4
    kernel.op("restored", checkpoint=manifest(), epoch=2)
    text += kernel.run("late = 2")
    found = until(lambda: (f := lines(kernel))[-1][2] == "late = 2" and f, "the late line")
    assert [t for _, _, t in found[-2:]] == ["early = 1", "late = 2"]
    assert "not unique" not in text + kernel.log.read_text()


def test_locked_database_delays_the_history_and_loses_nothing(kernel: InjectedKernel) -> None:
    session = history_session(kernel)
    kernel.op("quiesce", request_id="request-1")
    play_original(kernel, session, 2)
    with closing(sqlite3.connect(database(kernel), isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        assert kernel.op("restored", checkpoint=manifest(), epoch=2)["ok"]
        lock.execute("ROLLBACK")
    assert kernel.run("after = 1") == ""
    until(lambda: lines(kernel)[-1][2] == "after = 1", "the line")
    assert lines(kernel)[-1][0] == session + 1


def test_history_goes_on_in_the_same_session_after_a_plain_save(kernel: InjectedKernel) -> None:
    session = history_session(kernel)
    kernel.op("quiesce", request_id="request-1")
    kernel.run("meanwhile = 1")
    assert [t for _, _, t in lines(kernel)][1:] == []
    kernel.op("resume", restored=False, request_id="request-1")
    until(lambda: lines(kernel)[-1][2] == "meanwhile = 1", "the line")
    assert {s for s, _, _ in lines(kernel)} == {session}


def test_key_connection_file_and_message_ids_are_renewed(kernel: InjectedKernel) -> None:
    info = json.loads(Path(kernel.connection_file).read_text())
    info["key"] = "second-key"
    moved = kernel.folder / "kernel-moved.json"
    moved.write_text(json.dumps(info))
    before = kernel.value("get_ipython().kernel.session.session")
    kernel.op("quiesce", request_id="request-1")
    answer = kernel.op("restored", checkpoint=manifest(), epoch=2, connection=info,
                       connection_file=str(moved))
    assert answer["warnings"] == []
    kernel.client.stop_channels()
    kernel.connection_file = str(moved)
    kernel.client = kernel.connect()
    assert kernel.value("get_ipython().kernel.session.session") != before
    assert kernel.value("__import__('ipykernel').connect.get_connection_file()") == str(moved)


def test_new_ports_are_told_to_every_part(kernel: InjectedKernel) -> None:
    ports = {f"{name}_port": 40000 + i
             for i, name in enumerate(("shell", "iopub", "stdin", "control", "hb"))}
    pipe = kernel.value("get_ipython().kernel.iopub_thread._pipe_port")
    kernel.op("quiesce", request_id="request-1")
    answer = kernel.op("restored", checkpoint=manifest(), epoch=2, connection=ports,
                       port_map={str(pipe): 41000})
    assert answer["warnings"] == []
    assert kernel.value("get_ipython().kernel._recorded_ports") == ports
    assert kernel.value("[getattr(get_ipython().kernel.parent, n + '_port') for n in "
                        "('shell', 'iopub', 'stdin', 'control', 'hb')]") == list(ports.values())
    assert kernel.value("get_ipython().kernel.iopub_thread._pipe_port") == 41000


def test_moved_port_is_seen_by_its_descriptor() -> None:
    from jupyter_ckpt.inkernel.identity import Identity

    class Kernel:
        parent = None

    identity = Identity(Kernel())
    with socket.create_server(("127.0.0.1", 0)) as first:
        fd, old = first.fileno(), first.getsockname()[1]
        identity.remember()
        with socket.create_server(("127.0.0.1", 0)) as second:
            new = second.getsockname()[1]
            os.dup2(second.fileno(), fd)
            assert identity.moved_ports(None)[old] == new


def test_doubled_restored_message_acts_once(kernel: InjectedKernel) -> None:
    kernel.run("ran = []\nget_ipython().on_restore(lambda: ran.append(1))")
    kernel.op("quiesce", request_id="request-1")
    first = kernel.op("restored", checkpoint=manifest(), epoch=2)
    assert kernel.op("restored", checkpoint=manifest(), epoch=2) == first
    assert kernel.value("ran") == [1]


def test_kernel_listens_in_its_new_runtime_folder(kernel: InjectedKernel) -> None:
    with tempfile.TemporaryDirectory(prefix="ckptn") as new:
        assert kernel.op("restored", checkpoint=manifest(), epoch=2, runtime=new)["ok"]
        kernel.runtime = Path(new)
        assert kernel.op("ping")["epoch"] == 2
        agent = FakeAgent(Path(new))
        assert kernel.run("%checkpoint --list") == "No checkpoints yet: %checkpoint saves one."
        agent.close()
