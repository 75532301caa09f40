"""What people do with kernels, as functions that any process can be told to run.

``python -m faults.acts`` is the client that may die: it reads one act from its
standard input, does it and prints what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_ckpt import kernels
from jupyter_ckpt.agent.tools import remove_abandoned
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.kernel_ports import kernel_ports
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.record import read_record
from jupyter_ckpt.store import Store


def save(locations: Locations, kernel_id: str, note: str) -> dict[str, Any]:
    record = kernels.find_kernel(locations, kernel_id)
    return kernels.save(locations, record, note=note).to_dict()


def restore(locations: Locations, checkpoint: str, kernel_id: str, in_place: bool
            ) -> dict[str, Any]:
    manifest = Store.open(locations.store_dir).resolve(checkpoint)
    return kernels.restore(locations, manifest, kernel_id=kernel_id, in_place=in_place)


def fork(locations: Locations, kernel_id: str) -> dict[str, Any]:
    record = kernels.find_kernel(locations, kernel_id)
    return {"copies": kernels.fork(locations, record, 1)}


def launch(locations: Locations, kernel_id: str, cwd: str, env: dict[str, str]
           ) -> dict[str, Any]:
    """Start a Python kernel as ``jupyter ckpt start`` does."""
    from jupyter_client.connect import write_connection_file

    folder = locations.connection_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = str(folder / f"kernel-{kernel_id}.json")
    write_connection_file(path, ip="127.0.0.1", transport="tcp", kernel_name="python3",
                          key=str(uuid.uuid4()).encode(), **kernel_ports("127.0.0.1"))
    try:
        return kernels.launch(
            locations, kernel_id=kernel_id, kernel_name="python3", cwd=cwd, env=env,
            cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", path],
            connection_file=path, language="python").to_dict()
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def take_over(locations: Locations, kernel_id: str) -> dict[str, Any]:
    """Start an agent for a kernel whose agent died, as whoever needs one does."""
    return kernels.live_agent(locations, read_record(locations.folder(kernel_id))).status()


def look(locations: Locations) -> dict[str, Any]:
    """Do what ``jupyter ckpt ps`` does: it brings back what was being replaced."""
    return {"rows": kernels.list_kernels(locations)}


def collect(locations: Locations) -> None:
    """Do what ``jupyter ckpt gc`` does."""
    Store.open(locations.store_dir).collect()
    remove_abandoned(locations.store_dir / "work")


ACTS: dict[str, Callable[..., dict[str, Any]]] = {
    "save": save, "restore": restore, "fork": fork, "launch": launch, "take_over": take_over,
    "look": look}


class Client:
    """An act in a process of its own, which waits for `go` before it begins."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        env = {key: value for key, value in os.environ.items() if key != "JUPYTER_CKPT_FAULTS"}
        env["FAULTS_FOR_AGENTS"] = os.environ["JUPYTER_CKPT_FAULTS"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.acts"], env=env, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise AssertionError("the client did not start")
        self._told = json.dumps([name, arguments])

    def go(self) -> dict[str, Any]:
        """Let it act; return the result. Raises `CheckpointError` when it failed or died."""
        said, _ = self._process.communicate(self._told + "\n")
        if not said:
            raise CheckpointError(f"The client ended ({self._process.returncode}).")
        answer: dict[str, Any] = json.loads(said)
        if "error" in answer:
            raise CheckpointError(answer["error"])
        return answer


def main() -> None:
    os.environ["JUPYTER_CKPT_FAULTS"] = os.environ.pop("FAULTS_FOR_AGENTS")
    print("ready", flush=True)
    name, arguments = json.loads(sys.stdin.readline())
    try:
        answer = ACTS[name](Locations.default(), **arguments)
    except CheckpointError as error:
        answer = {"error": error.message}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
