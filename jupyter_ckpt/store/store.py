"""The store: the one thing others use to keep checkpoints on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Collection as Names
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointNotFound, ChunkMissing, IntegrityError, UsageError
from ..manifest import Manifest
from . import damage, tree
from .claims import Reading
from .collect import Collection, age_s
from .content import Content
from .disk import explaining
from .layout import Layout
from .manifests import ManifestFolder
from .quota import Quota
from .transaction import Transaction
from .workers import Progress

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Store:
    """Checkpoints in one folder. Holds no files open and no state between calls.

    Safe for several threads and processes at once. Every method that reads
    manifests raises `StoreUnusable` when the folder is not usable.
    """

    def __init__(self, root: Path) -> None:
        """Use the store at `root`; raises `StoreUnusable` unless it is whole and private."""
        self.root = Path(root)
        self._layout = Layout(self.root)
        self._layout.check()
        self._layout.read_key()
        self._layout.unlock()
        self._manifests = ManifestFolder(self._layout)
        self._quota = Quota(self._layout)

    @classmethod
    def open(cls, root: Path, create: bool = True) -> Store:
        """Return the store at `root`, made when `create` and it is not there yet.

        Raises `StoreUnusable` when `root` is no folder, not writable, open to
        other users or somebody else's, and `OutOfSpace`.
        """
        if create:
            Layout(Path(root)).create()
        return cls(root)

    # -- encryption

    @property
    def encrypted(self) -> bool:
        return self._layout.cipher is not None

    def encrypt(self, key_file: Path, kind: str = "key-file", make_key: bool = False) -> None:
        """Encrypt all that will be stored here; the store holds nothing yet.

        `key_file` holds the key, or with `kind` "passphrase" a passphrase. With
        `make_key` a key is made there if the file is missing, and stays whatever
        happens. Raises `UsageError` (something is stored, or it is encrypted
        already), `EncryptionKeyMissing`, `NotPossibleHere`; the store is as before
        then.
        """
        self._layout.encrypt(key_file.absolute(), kind, make_key)

    # -- writing

    def check_writing(self) -> None:
        """Raise `EncryptionKeyMissing` where a transaction would; ask before a long save."""
        self._layout.unlock_for_writing()
        if not self.encrypted:
            self._manifests.check_plain()

    def transaction(self, request_id: str, *, prove_reused: bool = False) -> Transaction:
        """Return the writer of one checkpoint, to be used in a ``with`` statement.

        `request_id` names its temporary folder. With `prove_reused` every
        chunk that is stored already is read back, and written anew if damaged,
        instead of being looked at for its length only. Raises `UsageError`,
        `OutOfSpace`, `StoreUnusable`.
        """
        if not _REQUEST_ID.fullmatch(request_id):
            raise UsageError("A request id is 1 to 64 letters, digits, '-' or '_'.")
        return Transaction(self._layout, self._manifests, request_id, prove_reused)

    def update(self, checkpoint_id: str, **changes: Any) -> Manifest:
        """Change `name`, `note`, `pinned` or `parked` of the checkpoint with this full id.

        Returns the manifest as it is now. Raises `CheckpointNotFound`,
        `NameTaken`, `UsageError`, `IntegrityError`; nothing is changed then.
        """
        with explaining("change a checkpoint"):
            return self._manifests.update(checkpoint_id, changes)

    def adopt(self, checkpoint_id: str) -> Manifest:
        """Sign as one's own the checkpoint with this full id, which another key signed.

        Whoever restores it runs its code with all rights of one's own, so this
        is only done when a person says so in plain words. Every byte is proven
        to be what the manifest names first. Raises `CheckpointNotFound`,
        `IntegrityError`; nothing is changed then.
        """
        with explaining("adopt a checkpoint"):
            return self._manifests.adopt(
                checkpoint_id, lambda manifest: Content(self._layout, manifest).prove())

    def remove(self, checkpoint_id: str) -> None:
        """Remove the checkpoint with this full id, readable or not.

        Its chunks stay until the next `collect`. Raises `CheckpointNotFound`.
        """
        with explaining("remove a checkpoint"):
            self._manifests.remove(checkpoint_id)

    def remove_if(self, checkpoint_id: str, may_go: Callable[[Manifest], bool]) -> bool:
        """Remove the checkpoint with this full id if it may still go; tell whether it went.

        `may_go` is asked about it as it is at that moment, and nobody can change
        it meanwhile. One that is being read stays. Raises `CheckpointNotFound`,
        `IntegrityError`; nothing is removed then.
        """
        with explaining("remove a checkpoint"):
            return self._manifests.remove_if(checkpoint_id, may_go)

    def collection_age_s(self) -> float:
        """Return how long ago the last `collect` began, infinity for never."""
        with explaining("look at its last collection"):
            return age_s(self._layout)

    def collect(self) -> dict[str, int]:
        """Remove chunks nothing needs and what dead writers left behind.

        Returns ``{"removed_chunks", "removed_bytes"}``. Writers may go on
        meanwhile. Raises `IntegrityError` naming a checkpoint that cannot be
        read (its chunks are unknown, so nothing is removed), `StoreUnusable`.
        """
        try:
            return Collection(self._layout, self._manifests).run()
        finally:
            self._quota.forget()

    # -- quota

    def quota_bytes(self) -> int | None:
        """Return how much this store may hold, None for any; raises `StoreUnusable`."""
        return self._quota.read()

    def set_quota(self, size_bytes: int | None) -> None:
        """Set how much this store may hold. Nothing is removed by that.

        Raises `OutOfSpace`, `StoreUnusable`; the quota is as before then.
        """
        self._quota.write(size_bytes)

    def usage_bytes(self, exact: bool = False) -> int:
        """Return how much this store holds, in chunks and manifests.

        Unless `exact` it costs one small file: what was counted of late, and
        added up since. Exactly it looks at every chunk. Raises `StoreUnusable`.
        """
        return self._quota.count() if exact else self._quota.usage_bytes()

    # -- manifests

    def manifests(self) -> list[Manifest]:
        """Return the readable checkpoints, newest first; see `problems` for the others."""
        return self._manifests.all()[0]

    def problems(self) -> list[dict[str, str]]:
        """Return ``{"id", "reason"}`` for every checkpoint whose manifest cannot be read."""
        return [{"id": one, "reason": error.message} for one, error in self._manifests.all()[1]]

    def resolve(self, reference: str) -> Manifest:
        """Return the checkpoint that an id, a unique prefix of it or a name stands for.

        Raises `MalformedId`, `CheckpointNotFound`, `AmbiguousId`, and
        `ManifestCorrupt`, `SignatureInvalid`, `FormatTooNew` when it is there
        but cannot be trusted.
        """
        return self._manifests.read(self._manifests.resolve(reference))

    def holds(self, checkpoint_id: str) -> bool:
        """Tell whether there is a checkpoint with this full id, readable or not."""
        return self._manifests.holds(checkpoint_id)

    def resolve_id(self, reference: str) -> str:
        """Return the full id like `resolve`, without reading the manifest.

        For removing or verifying what may be unreadable.
        """
        return self._manifests.resolve(reference)

    def check_name_free(self, name: str) -> None:
        """Raise `NameTaken` when a checkpoint is called `name`; ask before a long save."""
        self._manifests.check_name_free(name)

    # -- content

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[None]:
        """Keep a checkpoint and its chunks while the body reads it.

        Nothing but a person removes it then, and what it holds can be read to
        the end even so. Raises `CheckpointNotFound` when it was removed already,
        `IntegrityError`, `OutOfSpace`.
        """
        with explaining("keep a checkpoint that is read"):
            claim = Reading(self._layout, manifest.id)
        try:
            with explaining("keep a checkpoint that is read"), self._unless_removed(manifest):
                claim.claim([bytes.fromhex(manifest.content)])
                claim.claim(tree.digests(Content(self._layout, manifest).entries))
                # Whoever removed it before did not see the claim, and its chunks may go.
                self._manifests.read(manifest.id)
            yield
        finally:
            claim.close()

    @contextmanager
    def _unless_removed(self, manifest: Manifest) -> Iterator[None]:
        """Tell a checkpoint that was removed meanwhile from one that is damaged."""
        try:
            yield
        except (ChunkMissing, CheckpointNotFound) as error:
            if self._manifests.holds(manifest.id):
                raise
            raise CheckpointNotFound(
                f"Checkpoint {manifest.id} was removed while it was read.",
                "'jupyter ckpt list' shows the others.") from error

    def names(self, manifest: Manifest) -> list[str]:
        """Return the relative paths of the checkpoint's files; raises `IntegrityError`."""
        return [entry.name for entry in self._entries(manifest)]

    def unpacked_bytes(self, manifest: Manifest) -> int:
        """Return the disk space the checkpoint's files take when they are made anew."""
        return sum(length for entry in self._entries(manifest)
                   for digest, length in entry.chunks if digest is not None)

    def _entries(self, manifest: Manifest) -> list[tree.Entry]:
        with self._unless_removed(manifest):
            return Content(self._layout, manifest).entries

    def read_file(self, manifest: Manifest, name: str) -> bytes:
        """Return one file's bytes, proven; raises `NotFound`, `ChunkMissing`, `ChunkCorrupt`."""
        with self._unless_removed(manifest):
            return Content(self._layout, manifest).read(name)

    def materialise(self, manifest: Manifest, folder: Path, on_progress: Progress | None = None,
                    names: Names[str] | None = None) -> None:
        """Make the checkpoint's files (or those in `names`) anew below `folder`.

        Every chunk is proven while it is read; zeros become holes; existing
        files are replaced, links not followed. `on_progress` is called with
        the number of bytes done since its last call. Raises `ChunkMissing`,
        `ChunkCorrupt`, `NotFound`, `RestoreFailed`; files may be incomplete.
        """
        with self._unless_removed(manifest):
            Content(self._layout, manifest).materialise(folder, names, on_progress)

    def check(self, manifest: Manifest, on_progress: Progress | None = None) -> None:
        """Read back and prove all bytes of one checkpoint.

        Raises `ChunkMissing` or `ChunkCorrupt`, naming checkpoint and chunk, and
        `CheckpointNotFound` when it was removed meanwhile.
        """
        with self._unless_removed(manifest):
            Content(self._layout, manifest).prove(on_progress)

    def note_damage(self, checkpoint_id: str) -> int:
        """Let the next save that holds what is damaged in a checkpoint write it anew.

        Returns how many chunks that concerns. For what `verify` found to be bad; reads all
        of the checkpoint. Raises `CheckpointNotFound`, and `IntegrityError` for a
        manifest that cannot be read.
        """
        return damage.note(self._layout, self._manifests.read(checkpoint_id))

    def verify(self, ids: Sequence[str] | None = None) -> dict[str, Any]:
        """Prove the checkpoints `ids` (references like in `resolve`; None: all).

        Returns ``{"checked": count, "bad": [{"id", "reason"}, ...]}``. A chunk
        that several share is read once. Raises `CheckpointNotFound`,
        `AmbiguousId`, `MalformedId` for references that name none.
        """
        wanted = self._manifests.ids() if ids is None else [self.resolve_id(i) for i in ids]
        checked, bad = 0, []
        known: set[bytes] = set()
        for checkpoint_id in dict.fromkeys(wanted):
            try:
                Content(self._layout, self._manifests.read(checkpoint_id)).prove(known=known)
            except CheckpointNotFound:
                continue  # removed by somebody else meanwhile
            except IntegrityError as error:
                bad.append({"id": checkpoint_id, "reason": error.message})
            checked += 1
        return {"checked": checked, "bad": bad}
