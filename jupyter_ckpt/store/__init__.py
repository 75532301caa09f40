"""Checkpoints on disk: content-addressed chunks and signed manifests.

Knows bytes and ids, no kernels. Everything goes through `Store`::

    store = Store.open(folder)
    with store.transaction(request_id) as transaction:
        transaction.add_file("images/pages-1.img", path, extents)
        manifest = transaction.commit(manifest)
    store.materialise(store.resolve("before-training"), target)
"""

from .chunks import CHUNK_BYTES
from .cutting import Extent
from .store import Store
from .transaction import Transaction

__all__ = ["CHUNK_BYTES", "Extent", "Store", "Transaction"]
