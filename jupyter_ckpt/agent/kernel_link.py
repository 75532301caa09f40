"""The agent's line to the in-kernel part: one request, one answer, closed.

The kernel's end closes first, so that nothing of ours is open in the tree when
it is frozen. Kernels without the in-kernel part simply do not answer.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from ..protocol import KERNEL_SOCKET_NAME

_MAX_ANSWER_BYTES = 64 << 20


class KernelLink:
    """Requests to the kernel whose runtime folder is `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any] | None:
        """Send one request; return the answer, or None when none came in time."""
        request = json.dumps({"op": op, **fields}).encode() + b"\n"
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(timeout_s)
                line.connect(f"/proc/self/fd/{folder}/{KERNEL_SOCKET_NAME}")
                line.sendall(request)
                answer = json.loads(_read_to_end(line))
        except (OSError, ValueError, RecursionError):
            return None
        finally:
            os.close(folder)
        return answer if isinstance(answer, dict) else None


def _read_to_end(line: socket.socket) -> bytes:
    parts, size = [], 0
    while part := line.recv(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            raise ValueError("answer too long")
    return b"".join(parts)
