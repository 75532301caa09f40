"""Who asks for a document again while its kernel starts gets the same session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jupyter_ckpt.server.opening import Opening


class Sessions:
    """A session manager that starts a kernel when it is told to."""

    def __init__(self) -> None:
        self.kernel_manager = {"there"}
        self.go = asyncio.Event()
        self.made: list[str] = []

    async def create_session(self, *, path: str, kernel_id: str | None = None) -> dict[str, Any]:
        await self.go.wait()
        self.made.append(path)
        return {"id": f"session-{len(self.made)}"}


@pytest.mark.parametrize(("kernel_id", "sessions"), [(None, 1), ("to be started", 1), ("there", 2)])
def test_two_requests_for_a_document_start_one_kernel(
    kernel_id: str | None, sessions: int
) -> None:
    async def ask_twice() -> list[dict[str, Any]]:
        manager = Sessions()
        Opening(manager).install()
        asked = [asyncio.create_task(manager.create_session(path="a.ipynb", kernel_id=kernel_id))
                 for _ in range(2)]
        manager.go.set()
        found = await asyncio.gather(*asked)
        assert len(manager.made) == sessions
        return found

    assert len({session["id"] for session in asyncio.run(ask_twice())}) == sessions
