"""The line between agent and kernel, on real kernels."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inkernel_harness import PATIENCE_S, STARTUP, InjectedKernel, manifest, until


@pytest.fixture(scope="module")
def kernel() -> Iterator[InjectedKernel]:
    kernel = InjectedKernel()
    yield kernel
    kernel.close()


def test_startup_leaves_no_trace_in_names_or_environment(kernel: InjectedKernel) -> None:
    names = kernel.value("[n for n in globals() if 'ckpt' in n or n in ('os', 'sys', 'folder')]")
    assert names == []
    assert kernel.value("[n for n in __import__('os').environ "
                        "if 'CKPT' in n and 'TEST' not in n or n == 'PYTHONSTARTUP']") == []
    assert kernel.value("[p for p in __import__('sys').path if p.endswith('/inkernel')]") == []
    assert "IPython interactive" in kernel.value("__doc__")


def test_ping_answers_with_pid_and_epoch(kernel: InjectedKernel) -> None:
    assert kernel.op("ping") == {"ok": True, "pid": kernel.process.pid, "epoch": 1}


def test_socket_belongs_to_the_owner_only(kernel: InjectedKernel) -> None:
    mode = os.stat(kernel.runtime / "kernel.sock").st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize("line", [b"\n", b"{\n", b"[]\n", b"null\n", b"\xff\xfe\n", b"{}\n",
                                  b'{"op": "eat"}\n', b'{"op": ["x"]}\n', b"x" * 100_000 + b"\n"])
def test_bad_bytes_get_an_error_and_change_nothing(kernel: InjectedKernel, line: bytes) -> None:
    answer = kernel.raw(line)
    assert answer["ok"] is False
    assert answer["error"]["message"]
    assert kernel.op("ping")["ok"] is True


def test_peer_that_leaves_at_once_disturbs_nothing(kernel: InjectedKernel) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(kernel.runtime / "kernel.sock"))
    assert kernel.op("ping")["ok"] is True


def test_running_cell_is_told_while_the_main_thread_is_blocked(kernel: InjectedKernel) -> None:
    code = "print('begun', flush=True)\nimport time\nwhile not globals().get('go'): time.sleep(.01)"
    msg_id = kernel.start(code)
    answer = until(lambda: _with_output(kernel), "output in the journal")
    assert answer["busy"] is True
    running = answer["running"]
    assert (running["msg_id"], running["code"]) == (msg_id, code)
    assert running["session"] == kernel.client.session.session
    assert answer["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "begun\n"}]
    os.kill(kernel.process.pid, signal.SIGINT)
    kernel.finish(msg_id)
    count = answer["execution_count"]
    idle = until(lambda: (a := kernel.op("status"))["busy"] or a, "idle")
    cells_run = idle.pop("cells_run")
    assert idle == {"ok": True, "busy": False, "running": None, "execution_count": count,
                    "callbacks_run": 0, "background": False}
    assert 1 <= cells_run <= count
    recent = kernel.op("running")["recent"][-1]
    assert (recent["msg_id"], recent["finished"]) == (msg_id, True)
    assert recent["outputs"][-1]["ename"] == "KeyboardInterrupt"
    reply = kernel.client.get_shell_msg(timeout=PATIENCE_S)
    while reply["parent_header"]["msg_id"] != msg_id:
        reply = kernel.client.get_shell_msg(timeout=PATIENCE_S)
    assert reply["content"]["execution_count"] == count == running["execution_count"]


def _with_output(kernel: InjectedKernel) -> dict[str, Any] | None:
    answer = kernel.op("running")
    return answer if answer["outputs"] else None


def test_forked_children_neither_answer_nor_keep_the_socket(kernel: InjectedKernel) -> None:
    code = """
import os, multiprocessing as mp
def holds(_=None):
    found = []
    for fd in os.listdir('/proc/self/fd'):
        try: found.append(os.readlink('/proc/self/fd/' + fd))
        except OSError: pass
    inodes = {w[6] for w in map(str.split, open('/proc/net/unix')) if w[-1].endswith('kernel.sock')}
    return any(f'socket:[{i}]' in found for i in inodes)
def ask(_=None):
    try: get_ipython().checkpoint()
    except Exception as error: return str(error)
with mp.get_context('fork').Pool(1) as pool:
    answers = [holds(), pool.apply(holds), pool.apply(ask)]
"""
    assert kernel.run(code) == ""
    mine, childs, refused = kernel.value("answers")
    assert (mine, childs) == (True, False)
    assert "child process" in refused
    assert kernel.op("ping")["pid"] == kernel.process.pid


def test_spawned_children_start_undisturbed(kernel: InjectedKernel) -> None:
    code = "import multiprocessing as mp, math\n" \
           "with mp.get_context('spawn').Pool(1) as p: print(p.apply(math.sqrt, (4,)))"
    assert kernel.run(code) == "2.0\n"


def test_children_output_is_in_the_journal(kernel: InjectedKernel) -> None:
    msg_id = kernel.start("import multiprocessing as mp\n"
                          "fork = mp.get_context('fork')\n"
                          "p = fork.Process(target=print, args=('from a child',))\n"
                          "p.start(); p.join()")
    kernel.finish(msg_id)

    def text() -> str:
        recent = {r["msg_id"]: r for r in kernel.op("running")["recent"]}
        return "".join(o.get("text", "") for o in recent[msg_id]["outputs"])
    until(lambda: "from a child" in text(), "the child's line in the journal")


def test_stale_epoch_is_refused() -> None:
    kernel = InjectedKernel()
    try:
        assert kernel.op("restored", checkpoint=manifest(), epoch=4)["ok"]
        assert kernel.op("ping")["epoch"] == 4
        assert kernel.op("quiesce", request_id="r" * 8, epoch=3)["error"]["id"] == "stale-epoch"
    finally:
        kernel.close()


@pytest.mark.parametrize("broken", [False, True])
def test_users_own_startup_file_runs_as_before(tmp_path: Path, broken: bool) -> None:
    own = tmp_path / "own.py"
    own.write_text("import os, sys\nseen = [__file__, os.environ['PYTHONSTARTUP'], sys.argv[0],"
                   " sys.path[0]]\n" + ("1/0\n" if broken else ""))
    kernel = InjectedKernel(JUPYTER_CKPT_USER_STARTUP=str(own))
    try:
        assert kernel.value("seen") == [str(own), str(own), str(own), str(tmp_path)]
        assert kernel.value("'__file__' in globals()") is False
        assert kernel.op("ping")["ok"] is True
    finally:
        kernel.close()


def test_unusable_runtime_folder_costs_one_line_and_no_kernel(tmp_path: Path) -> None:
    kernel = InjectedKernel(JUPYTER_CKPT_RUNTIME=str(tmp_path / "missing"))
    try:
        assert kernel.value("1 + 1") == 2
        line = [x for x in kernel.log.read_text().splitlines() if "jupyter_ckpt" in x]
        assert len(line) <= 1
    finally:
        kernel.close()


def test_other_interactive_python_only_runs_the_users_file(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("marker = 41\n")
    env = {**os.environ, "PYTHONSTARTUP": str(STARTUP), "JUPYTER_CKPT_USER_STARTUP": str(own),
           "JUPYTER_CKPT_RUNTIME": str(tmp_path)}
    code = "import os, json; print(json.dumps([marker + 1, os.environ['PYTHONSTARTUP']," \
           " [n for n in globals() if 'ckpt' in n]]))\n"
    done = subprocess.run([sys.executable, "-i", "-q"], input=code, env=env, text=True,
                          capture_output=True, timeout=PATIENCE_S, check=True)
    assert json.loads(done.stdout) == [42, str(own), []]
    assert not (tmp_path / "kernel.sock").exists()
