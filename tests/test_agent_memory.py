"""Agents live for weeks: their heap and their log stay small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GROW = """
import sys
from jupyter_ckpt.agent import heap
from jupyter_ckpt.procfs import rss_bytes
import os
heap.tame()
before = rss_bytes(os.getpid())
for number in range(20):
    kept = bytearray(20_000_000)          # mapped by itself
    small = bytes(200_000)                # on the heap, above it
    del kept
heap.give_back()
print(rss_bytes(os.getpid()) - before)
"""

LOG = """
import logging, os, sys
from pathlib import Path
from jupyter_ckpt.agent.logfile import LogFile
log = logging.getLogger("x")
log.addHandler(LogFile(Path(sys.argv[1]), most_bytes=2000))
for number in range(100):
    log.error("line %d %s", number, "." * 50)
os.write(2, b"printed by the interpreter\\n")
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library")
def test_freed_blocks_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5_000_000


def test_log_is_bounded_private_and_has_what_the_interpreter_prints(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    subprocess.run([sys.executable, "-c", LOG, str(path)], check=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["agent.log", "agent.log.1"]
    for each in tmp_path.iterdir():
        assert each.stat().st_size < 4000
        assert each.stat().st_mode & 0o077 == 0
    assert "line 99" in path.read_text()
    assert path.read_text().endswith("printed by the interpreter\n")
