"""Kernels whose process somebody else exchanges while a server shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from jupyter_harness import Home, StartServer, wait_until

pytest_plugins = ["jupyter_fixtures"]

CRASHED = "restarting kernel"
"""What the server's restarter says of a kernel that it takes for crashed."""


def ckpt(home: Home, *words: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "jupyter_ckpt.cli.main", *words, "--json"],
                          env=home.env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("busy", [False, True])
def test_restore_past_the_server_is_followed_by_it(
    real_home: Home, start: StartServer, busy: bool
) -> None:
    server = start(real_home)
    kernel_id = str(server.open_session("a.ipynb")["kernel"]["id"])
    channel = server.connect(kernel_id)
    assert channel.run("x = 7; print(x)") == "7"
    if busy:
        channel.send("import time\nfor i in range(4000): time.sleep(0.01)")
        wait_until(lambda: server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"]
                   == "busy")
    saved = server.save(kernel_id)["result"]["id"]
    if not busy:
        assert channel.run("x = 8; print(x)") == "8"
    ckpt(real_home, "restore", saved, "--no-server")
    now = (real_home.record(kernel_id) or {})["kernel"]

    def followed() -> bool:
        told = f"is process {now['pid']} now" in server.log.read_text()
        return told and (server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"]
                         == ("busy" if busy else "idle"))

    wait_until(followed, what="the server follows the exchange")
    if busy:
        assert server.request("POST", f"/api/kernels/{kernel_id}/interrupt").status_code == 204
        wait_until(lambda: server.ok("GET", f"/api/kernels/{kernel_id}")["execution_state"]
                   == "idle", what="the cell has ended, here, too")
    assert server.connect(kernel_id).run("print(x)") == "7"
    assert (real_home.record(kernel_id) or {})["kernel"] == now, "nobody has restarted it"
    assert CRASHED not in server.log.read_text().lower()
    # It is the server's as before.
    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status_code == 200
    assert server.connect(kernel_id).run("print('x' in globals())") == "False"
