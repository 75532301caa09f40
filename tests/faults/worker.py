"""One process that plays cases in one mode, one JSON line for each.

It is started with the plan in its environment and, for rootless mode, as an
ordinary user: see `__main__`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from fault_plan import FaultPlan

from jupyter_ckpt.faults import VARIABLE

from .matrix import STORE, Case, all_cases
from .outcome import Outcome


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="faults.worker")
    parser.add_argument("--mode", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("cases", nargs="+")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # what is logged of faults is no news here
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was made is cleared away
    known = {case.id: case for case in all_cases()}
    worker = Worker(options.folder, options.mode)
    try:
        worker.play(known[name] for name in options.cases)
    finally:
        worker.close()
    return 0


class Worker:
    """Plays cases on stages that it makes when they are first needed."""

    def __init__(self, folder: Path, mode: str) -> None:
        self._folder, self._mode = folder, mode
        self._plan = FaultPlan(Path(os.environ[VARIABLE]))
        self._plan.disarm()
        self._stages: dict[str, object] = {}

    def play(self, cases: Iterable[Case]) -> None:
        # Those that fork come first, while this process has no other threads.
        for case in sorted(cases, key=lambda case: case.operation not in STORE):
            began = time.monotonic()
            try:
                outcome = self._stage(case).run(case)
            except Exception:
                last = traceback.format_exc().strip().splitlines()
                outcome = Outcome(case.id, fired=self._plan.fired(), broken=[
                    "the runner failed: " + " | ".join(last[-4:])])
            outcome.mode, outcome.seconds = self._mode, round(time.monotonic() - began, 2)
            print(outcome.to_json(), flush=True)

    def _stage(self, case: Case):  # type: ignore[no-untyped-def]
        kind = "store" if case.operation in STORE else "kernel"
        if case.operation in ("adopt", "swap", "depart"):
            kind = "server"
        if case.operation in ("cull", "revive", "crash", "sweep"):
            kind = "return"
        if case.operation in ("watch", "pressure"):
            kind = "agent"
        if kind not in self._stages:
            self._stages[kind] = self._new_stage(kind)
        return self._stages[kind]

    def _new_stage(self, kind: str) -> object:
        if kind == "store":
            from .store_cases import StoreStage

            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            folder = Path(tempfile.mkdtemp(prefix="faults-", dir=memory))
            self._stages["memory"] = folder
            return StoreStage(folder, self._plan)
        if kind == "kernel":
            from .kernel_stage import KernelStage

            return KernelStage(self._folder, self._mode, self._plan)
        if kind == "return":
            from .return_stage import ReturnStage

            return ReturnStage(self._folder, self._mode, self._plan)
        if kind == "agent":
            from .agent_stage import AgentStage

            return AgentStage(self._folder, self._mode, self._plan)
        from .server_stage import ServerStage

        return ServerStage(self._folder, self._mode, self._plan)

    def close(self) -> None:
        for kind, stage in self._stages.items():
            if kind == "memory":
                shutil.rmtree(str(stage))
            elif hasattr(stage, "close"):
                stage.close()


if __name__ == "__main__":
    sys.exit(main())
