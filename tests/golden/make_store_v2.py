"""Make ``store-v2``, the golden store of format 2: an encrypted one, with ``store-v2.key``.

It was run once, as make_store_v1.py was: python make_store_v2.py FOLDER KEY_FILE
"""

from __future__ import annotations

import sys
from pathlib import Path

from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.store import Store

FILES = {"inventory.img": b"inventory", "empty": b"", "files/0": b"a,b\n1,2\n" * 20_000}


def make(root: Path, key_file: Path) -> None:
    """Make the golden store at `root`."""
    key_file.write_bytes(bytes(range(100, 132)))
    key_file.chmod(0o600)
    store = Store.open(root)
    (root / "key").write_bytes(bytes(range(32)))
    store.encrypt(key_file)
    with store.transaction("golden-2") as transaction:
        for name, data in FILES.items():
            transaction.add_bytes(name, data)
        transaction.commit(Manifest(
            id="fedcba9876543210", created_at="2026-11-23T02:00:00.000Z", content="0" * 64,
            name="golden two", kernel={"id": "k-2", "name": "python3", "language": "python"}))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
