"""The workers of one run: processes that play shares of the cases, in both modes."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ordinary_user import CHECKOUT, NOBODY, prefix

from jupyter_ckpt.faults import VARIABLE

from .matrix import Case
from .outcome import Outcome

Tell = Callable[[Outcome], None]


def play(
    cases: Sequence[Case], modes: Sequence[str], tell: Tell, workers: int = 1
) -> list[Outcome]:
    """Play every case in every mode, the modes side by side; `tell` hears of each outcome.

    `workers` of them share the cases of one mode. One that ends early leaves its
    cases without having fired, and is said so.
    """
    heard: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    shares = [share for first in range(workers) if (share := cases[first::workers])]
    threads = [threading.Thread(target=_play_in, args=(mode, share, heard))
               for mode in modes for share in shares]
    for thread in threads:
        thread.start()
    outcomes, ended = [], 0
    while ended < len(threads):
        outcome = heard.get()
        if outcome is None:
            ended += 1
            continue
        outcomes.append(outcome)
        tell(outcome)
    return outcomes


def _play_in(mode: str, cases: Sequence[Case], heard: queue.SimpleQueue[Outcome | None]) -> None:
    # Short, and not below a folder that others may not enter: sockets lie in it.
    top = Path(tempfile.mkdtemp(prefix="ckpt-f-", dir="/var/tmp"))
    missing = {case.id for case in cases}
    try:
        top.chmod(0o755)
        own = top / "own"
        (own / "plan").mkdir(parents=True)
        if mode != "root" and os.geteuid() == 0:
            for path in (own, own / "plan"):
                os.chown(path, NOBODY, NOBODY)
        with subprocess.Popen(_command(mode, own, cases), env=_environment(own), text=True,
                              cwd=own, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            for text in worker.stdout:
                outcome = Outcome.from_json(text)
                missing.discard(outcome.case)
                heard.put(outcome)
        for case in sorted(missing):
            heard.put(Outcome(case, mode, broken=["the worker ended before"]))
    finally:
        shutil.rmtree(top, ignore_errors=True)
        heard.put(None)


def _command(mode: str, folder: Path, cases: Sequence[Case]) -> list[str]:
    become = prefix() if mode != "root" and os.geteuid() == 0 else []
    return [*become, sys.executable, "-m", "faults.worker", "--mode", mode,
            "--folder", str(folder), *(case.id for case in cases)]


def _environment(folder: Path) -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "JUPYTER_CKPT_CRIU")
    return {**{name: os.environ[name] for name in kept if name in os.environ},
            "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(folder), VARIABLE: str(folder / "plan"), "MPLBACKEND": "agg"}
