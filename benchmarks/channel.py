"""Talking to a kernel and timing its first answer."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path

from jupyter_client import BlockingKernelClient

CELL_TIMEOUT_S = 300.0
ANSWER_DEADLINE_S = 60.0


class Channel:
    """A client of one kernel, opened when needed and closed before a kill.

    Who closes first keeps the port for a minute: it must never be the kernel.
    """

    def __init__(self, connection_file: Path) -> None:
        self._connection_file = connection_file
        self._client: BlockingKernelClient | None = None

    def open(self) -> None:
        """Connect and wait until the kernel answers."""
        client = BlockingKernelClient(connection_file=str(self._connection_file))
        client.load_connection_file()
        client.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=False)
        deadline = time.monotonic() + ANSWER_DEADLINE_S
        while True:
            try:
                client.kernel_info(reply=True, timeout=1)
                break
            except (TimeoutError, queue.Empty):
                if time.monotonic() > deadline:
                    raise
        self._client = client

    def run(self, code: str) -> str:
        """Run a cell and return what it printed."""
        assert self._client is not None
        printed: list[str] = []

        def note(message: dict[str, dict[str, str]]) -> None:
            if message["header"]["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self._client.execute_interactive(
            code, timeout=CELL_TIMEOUT_S, output_hook=note, allow_stdin=False)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"A cell failed: {reply['content'].get('evalue')}")
        return "".join(printed)

    def close(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
            self._client = None

    def ports(self) -> set[int]:
        info = json.loads(self._connection_file.read_bytes())
        return {value for name, value in info.items() if name.endswith("_port")}
