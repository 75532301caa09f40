"""What the tests of the store share: small checkpoints, and faults at any system call."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_ckpt.manifest import Manifest, new_id, utc_now
from jupyter_ckpt.store import Extent, Store, disk

PAGE = 4096
CALLS = ("open", "writev", "write", "rename", "mkdir", "unlink", "fsync", "preadv", "pwrite")


def manifest(**fields: Any) -> Manifest:
    """Return a manifest as an agent would begin it."""
    return Manifest(**{"id": new_id(), "created_at": utc_now(), "kernel": {"name": "python3"},
                       "content": "0" * 64, **fields})


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int = 1) -> bytes:
    """Return bytes that compress."""
    words = random.Random(seed).choices([b"alpha ", b"beta ", b"gamma ", b"delta "], k=size // 5)
    return b"".join(words)[:size].ljust(size, b".")


def rot(path: Path) -> None:
    """Change the last byte of a file, as a bad disk does; its length stays.

    Done twice it does not undo itself.
    """
    data = bytearray(path.read_bytes())
    data[-1] = (data[-1] + 1) % 256
    path.write_bytes(data)


def mixed(seed: int = 1) -> bytes:
    """Return a small image: noise, text, zeros, and an odd end."""
    return (noise(200_000, seed) + text(150_000, seed) + bytes(300_000) + noise(70_001, seed + 1))


def save(store: Store, contents: dict[str, bytes], folder: Path,
         extents: list[Extent] | None = None, request_id: str = "test-request",
         **fields: Any) -> Manifest:
    """Store `contents` as one checkpoint through real source files in `folder`."""
    folder.mkdir(exist_ok=True)
    with store.transaction(request_id) as transaction:
        for number, (name, data) in enumerate(contents.items()):
            source = folder / f"source-{os.getpid()}-{number}"
            source.write_bytes(data)
            transaction.add_file(name, source, extents)
        return transaction.commit(manifest(**fields))


def chunk_files(store: Store) -> list[Path]:
    return sorted(path for path in (store.root / "chunks").rglob("*") if path.is_file())


def manifest_file(store: Store, saved: Manifest) -> Path:
    return store.root / "manifests" / f"{saved.id}.json"


@contextmanager
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: syncs cost nothing there."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base, prefix="store-test-") as name:
        yield Path(name)


class FaultyCalls:
    """Stands in for `os` functions and does something at one of their calls.

    With `at` None calls are only counted and listed.
    """

    def __init__(self, at: int | None, fault: Callable[[], None]) -> None:
        self.count = 0
        self.seen: list[tuple[str, str]] = []
        self._at = at
        self._fault = fault
        self._real = {name: getattr(os, name) for name in CALLS}
        self._real_sync = disk._libc

    def _counted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            self.seen.append((name, str(args[1] if name == "rename" else args[0] if args else "")))
            if self.count == self._at:
                self._fault()
            return call(*args, **keywords)
        return counted

    def __enter__(self) -> FaultyCalls:
        for name, call in self._real.items():
            setattr(os, name, self._counted(name, call))
        disk._libc = _Libc(self._counted("syncfs", self._real_sync.syncfs))  # type: ignore
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in self._real.items():
            setattr(os, name, call)
        disk._libc = self._real_sync


class _Libc:
    def __init__(self, syncfs: Callable[..., Any]) -> None:
        self.syncfs = syncfs


def in_child(act: Callable[[], None]) -> int:
    """Run `act` in a forked process; return its exit status (-9 when it was killed)."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)
