"""How much longer a Jupyter server takes to start when it adopts kernels."""

from __future__ import annotations

import time

from demo.home import Home
from demo.server import Server, wait_for
from jupyter_ckpt.locations import Locations

from .figures import Results, Row
from .ours import start_kernel
from .processes import kill_all
from .subject import WORK

KERNELS = 20
DEAD_SERVER = {"pid": 1 << 30, "start_time": 1}


def measure(results: Results, rounds: int) -> None:
    """Time servers with no kernel and with 20 living ones, in turn."""
    none, twenty = [], []
    with Home(WORK) as empty, Home(WORK) as full:
        _start_kernels(full)
        for _ in range(rounds):
            none.append(_start(empty, 0))
            twenty.append(_start(full, KERNELS))
    added = [after - before for before, after in zip(none, twenty)]
    results.rows.append(Row("server start, 0 kernels", "s", none))
    results.rows.append(Row(f"server start, {KERNELS} adopted kernels", "s", twenty))
    results.rows.append(Row("added by adoption", "s", added, goal=1.0, absolute=True))


def _start_kernels(home: Home) -> None:
    runtime = home.folder / "runtime"
    places = Locations(runtime / "ckpt", runtime, home.folder / "data" / "ckpt")
    for number in range(KERNELS):
        name = f"notebook-{number}.ipynb"
        owner: dict[str, object] = {**DEAD_SERVER, "root_dir": str(home.work.resolve()),
                                    "url": "http://127.0.0.1:1/"}
        session: dict[str, object] = {"id": f"session-{number}", "path": name, "name": name,
                                      "type": "notebook"}
        start_kernel(places, home.env, home.work, owner, session)


def _start(home: Home, kernels: int) -> float:
    """Start a server and kill it; return the seconds until it shows `kernels` kernels."""
    began = time.monotonic()
    server = Server(home)

    def shown() -> bool:
        return len(server.ask("GET", "/api/kernels")) == kernels

    wait_for(shown, 60, f"the server shows {kernels} kernels")
    seconds = time.monotonic() - began
    kill_all(server.processes())
    server.process.wait()
    return seconds
