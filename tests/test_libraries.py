"""Mapped files: what is read of them, and what a change between save and restore means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_ckpt.agent import libraries
from jupyter_ckpt.agent.libraries import LARGE_BYTES, SAMPLE_BYTES, check_unchanged, inventory
from jupyter_ckpt.engine.openfiles import OpenFile
from jupyter_ckpt.errors import RestoreRefused

SIZE = LARGE_BYTES + SAMPLE_BYTES


def mapped(path: Path, head: bytes = b"", size: int = SIZE) -> OpenFile:
    """Make a file of `size` bytes, nearly all of them holes."""
    path.write_bytes(head)
    os.truncate(path, size)
    return OpenFile(str(path), "mapped", size)


def write(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"changed")


def test_large_data_file_is_sampled_and_its_ends_and_middle_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    listed = inventory([mapped(path)], ())
    assert listed[0]["sampled"]
    assert check_unchanged(listed) == []
    step = (SIZE - SAMPLE_BYTES) // (libraries.SAMPLES - 1)
    for offset in (0, 7 * step + 100, SIZE - 7):
        mapped(path)
        write(path, offset)
        with pytest.raises(RestoreRefused, match="other content"):
            check_unchanged(listed)


def test_large_data_file_that_was_written_where_nobody_looks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    listed = inventory([mapped(path)], ())
    write(path, SAMPLE_BYTES + 10)
    [warning] = check_unchanged(listed)
    assert str(path) in warning
    os.truncate(path, SIZE - 1)
    with pytest.raises(RestoreRefused, match="bytes"):
        check_unchanged(listed)


def test_copy_with_the_same_times_is_accepted_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    listed = inventory([mapped(path)], ())
    path.unlink()
    mapped(path)
    os.utime(path, ns=(0, listed[0]["mtime_ns"]))
    assert check_unchanged(listed) == []


@pytest.mark.parametrize(("head", "size"), [(b"\x7fELF", SIZE), (b"", 5 * SAMPLE_BYTES)])
def test_library_and_small_file_are_read_whole(tmp_path: Path, head: bytes, size: int) -> None:
    path = tmp_path / "lib.so"
    listed = inventory([mapped(path, head, size)], ())
    assert not listed[0]["sampled"]
    write(path, SAMPLE_BYTES + 10)
    with pytest.raises(RestoreRefused, match="other content"):
        check_unchanged(listed)


def test_remembered_hashes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "CACHED", 3)
    files = [mapped(tmp_path / str(number), size=10) for number in range(10)]
    assert len(inventory(files, ())) == 10
    assert len(libraries._cache) <= 3
