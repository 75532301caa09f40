"""Copies of notebooks: each has a name of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_ckpt.server.documents import Documents


class FakeContents:
    """A contents manager that takes its time with every call."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}

    async def dir_exists(self, path: str) -> bool:
        return True

    async def file_exists(self, path: str) -> bool:
        await asyncio.sleep(0)
        return path in self.saved

    async def save(self, model: dict[str, Any], path: str) -> None:
        await asyncio.sleep(0)
        self.saved[path] = model["content"]


def test_copies_that_are_made_at_once_do_not_overwrite_each_other() -> None:
    contents = FakeContents()

    async def copy_at_once() -> list[str]:
        documents = Documents(contents)
        return await asyncio.gather(*(
            documents.write_copy("folder/a.ipynb", {"number": number}, "fork")
            for number in range(3)))

    names = asyncio.run(copy_at_once())
    assert names == ["folder/a-fork.ipynb", "folder/a-fork-1.ipynb", "folder/a-fork-2.ipynb"]
    assert [contents.saved[name] for name in names] == [{"number": n} for n in range(3)]
