"""Make ``store-v1``, the golden store of format 1.

It was run once; the store it made stays for ever, so that every later version
is tested to read it. Run it again only to make the golden store of a new
format, under a new name: python make_store_v1.py FOLDER
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.store import Extent, Store

KEY = bytes(range(32))
PAGES = random.Random(1).randbytes(30_000) + b"heap " * 20_000 + bytes(200_000)
FILES = {"inventory.img": b"inventory", "empty": b"", "files/0/data.csv": b"a,b\n1,2\n" * 500}


def make(root: Path) -> None:
    """Make the golden store at `root`."""
    store = Store.open(root)
    (root / "key").write_bytes(KEY)
    source = root / "pages-source"
    source.write_bytes(PAGES)
    with store.transaction("golden-1") as transaction:
        transaction.add_file("images/pages-1.img", source,
                             [Extent(0, len(PAGES), 0x7F1200003000)])
        for name, data in FILES.items():
            transaction.add_bytes(name, data)
        transaction.commit(Manifest(
            id="0123456789abcdef", created_at="2026-01-02T03:04:05.678Z", content="0" * 64,
            name="golden one", note="Füße", pinned=True, trigger="magic", mode="root",
            kernel={"id": "k-1", "name": "python3", "language": "python", "execution_count": 7,
                    "busy": True, "running": {"msg_id": "m", "cell_id": "c"}},
            notebook={"path": "/home/user/a.ipynb", "sha256": "0" * 64},
            processes=[{"pid": 12, "ppid": 11, "name": "python", "rss_bytes": 4096}],
            memory_bytes=4096, pause_s=0.05, duration_s=1.5, files=[{"path": "/lib/x.so"}],
            host={"kernel": "6.18"}, warnings=["w"]))
    source.unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
