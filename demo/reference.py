"""The same notebook in an ordinary kernel that nobody saves, stops or restores."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import KernelProvisionerFactory

from .outputs import Execution
from .server import DemoFailed

CELL_TIMEOUT_S = 150.0


class Reference(threading.Thread):
    """Runs a notebook to its end, and then `questions`, in a thread of its own."""

    def __init__(self, notebook: Path, env: dict[str, str], questions: dict[str, str]) -> None:
        super().__init__(name="reference", daemon=True)
        self.outputs: list[list[dict[str, Any]]] = []
        self.answers: dict[str, str | None] = {}
        self._notebook, self._env, self._questions = notebook, env, questions
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._error = error

    def await_end(self) -> None:
        """Wait for the end; raises `DemoFailed` when the run failed."""
        self.join()
        if self._error is not None:
            raise DemoFailed(f"The uninterrupted run failed: {self._error}") from self._error

    def _run(self) -> None:
        document = nbformat.read(self._notebook, as_version=4)
        # An ordinary kernel, whatever the user's default is.
        KernelProvisionerFactory.instance().default_provisioner_name = "local-provisioner"
        manager = KernelManager(
            kernel_name="python3", connection_file=str(self._notebook.parent / "kernel.json"))
        manager.start_kernel(cwd=str(self._notebook.parent), env=self._env,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            for cell in document.cells:
                if cell.cell_type == "code":
                    self.outputs.append(_execute(client, cell.source).outputs)
            for name, code in self._questions.items():
                self.answers[name] = _execute(client, code).result
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _execute(client: Any, code: str) -> Execution:
    execution = Execution("")
    client.execute_interactive(code, timeout=CELL_TIMEOUT_S, output_hook=execution.add,
                               allow_stdin=False)
    if any(output["output_type"] == "error" for output in execution.outputs):
        raise DemoFailed(execution.text)
    return execution
