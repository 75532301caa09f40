"""A notebook page as a browser has one: the document, and a websocket to the kernel."""

from __future__ import annotations

import json
import threading
import uuid
from typing import Any

import websocket

from .outputs import Execution
from .server import DemoFailed, Server, wait_for

CELL_TIMEOUT_S = 120.0


class Page:
    """An open notebook. It outlives servers: `attach` connects it to the next one."""

    def __init__(self, server: Server, path: str) -> None:
        self.path = path
        self.session_id = uuid.uuid4().hex
        self.document: dict[str, Any] = server.ask("GET", f"/api/contents/{path}")["content"]
        self.runs: dict[int, Execution] = {}
        self._executions: dict[str, Execution] = {}
        model = server.ask("POST", "/api/sessions", {
            "path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}})
        self._connect(server, model["kernel"]["id"])

    @property
    def code_cells(self) -> list[int]:
        """The positions of the cells with code."""
        return [n for n, cell in enumerate(self.document["cells"]) if cell["cell_type"] == "code"]

    def attach(self, server: Server, kernel_id: str) -> None:
        """Connect to the kernel of another server, where a cell may be running.

        What that cell shows becomes what the kernel's journal says, followed by
        what the kernel sends from now on.
        """
        for execution in self._executions.values():
            if not execution.done.is_set():
                execution.hold()
        self._connect(server, kernel_id)
        journal = server.ask("GET", f"/api/ckpt/kernels/{kernel_id}/running")
        entries = [(entry, True) for entry in journal["recent"]]
        if journal["running"]:
            entries.append((journal["running"], False))
        for entry, finished in entries:
            execution = self._executions.get(entry["msg_id"])
            if execution is not None and not execution.done.is_set():
                execution.adopt(entry, finished)

    def run(self, position: int) -> Execution:
        """Run a cell to its end; raise `DemoFailed` when it fails."""
        execution = self.start(position)
        self.finish(execution)
        return execution

    def start(self, position: int) -> Execution:
        cell = self.document["cells"][position]
        self.runs[position] = self._execute("".join(cell["source"]), cell["id"])
        return self.runs[position]

    def finish(self, execution: Execution) -> None:
        if not execution.done.wait(CELL_TIMEOUT_S):
            raise DemoFailed(f"A cell did not end within {CELL_TIMEOUT_S:g} s; "
                             f"it showed {execution.text[-200:]!r}.")
        if any(output["output_type"] == "error" for output in execution.outputs):
            raise DemoFailed(f"A cell failed: {execution.text}")

    def ask(self, code: str, silent: bool = False) -> Execution:
        """Run code that is in no cell; `silent` leaves the execution count alone."""
        execution = self._execute(code, None, silent)
        self.finish(execution)
        return execution

    def wait_until_shown(self, execution: Execution, text: str) -> None:
        def shown() -> bool:
            if execution.done.is_set() and text not in execution.text:
                raise DemoFailed(f"The cell ended without showing {text!r}: {execution.text}")
            return text in execution.text

        wait_for(shown, CELL_TIMEOUT_S, f"the cell shows {text!r}")

    def save_document(self, server: Server) -> None:
        """Write what the page shows into the document, as a front end does."""
        for position, execution in self.runs.items():
            cell = self.document["cells"][position]
            cell["outputs"] = [dict(output) for output in execution.outputs]
            cell["execution_count"] = execution.count
        server.ask("PUT", f"/api/contents/{self.path}", {
            "type": "notebook", "format": "json", "content": self.document})

    # -- the websocket ---------------------------------------------------------------

    def _connect(self, server: Server, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels"
            f"?session_id={self.session_id}&token={server.token}", timeout=CELL_TIMEOUT_S)
        threading.Thread(target=self._listen, args=(self._socket,), daemon=True).start()

    def _listen(self, connection: websocket.WebSocket) -> None:
        while True:
            try:
                message = json.loads(connection.recv())
            except (websocket.WebSocketException, OSError, ValueError):
                return  # the server is gone: the page waits for another one
            execution = self._executions.get(message["parent_header"].get("msg_id"))
            if execution is not None:
                execution.add(message)

    def _execute(self, code: str, cell_id: str | None, silent: bool = False) -> Execution:
        execution = Execution(uuid.uuid4().hex)
        self._executions[execution.msg_id] = execution
        header = {"msg_id": execution.msg_id, "msg_type": "execute_request", "version": "5.4",
                  "username": "demo", "session": self.session_id,
                  "date": "2026-01-01T00:00:00Z"}
        content = {"code": code, "silent": silent, "store_history": not silent,
                   "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
        self._socket.send(json.dumps({
            "channel": "shell", "header": header, "parent_header": {}, "content": content,
            "metadata": {"cellId": cell_id} if cell_id else {}, "buffers": []}))
        return execution
