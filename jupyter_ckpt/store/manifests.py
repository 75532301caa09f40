"""The folder of signed manifests: what checkpoints there are."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import (
    AmbiguousId,
    CannotBeSaved,
    CheckpointNotFound,
    IntegrityError,
    ManifestCorrupt,
    NameTaken,
    UsageError,
    quoted,
)
from ..faults import point
from ..manifest import (
    ENCRYPTED_FORMAT,
    Manifest,
    checked_name,
    checked_note,
    checked_reference,
    is_id,
    is_id_prefix,
    is_too_short,
)
from .claims import is_read
from .disk import explaining, sync_folder, write_synced
from .layout import Layout
from .locks import EXCLUSIVE, LockFile
from .signing import opened, sealed, unverified

_SUFFIX = ".json"
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHANGEABLE = {"name", "note", "pinned", "parked"}
MAX_MANIFEST_BYTES = 64 << 20
Version = tuple[str, int, int]


class ManifestFolder:
    """Reads and writes the manifests of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.manifests

    def ids(self) -> list[str]:
        """Return the ids of all checkpoints, readable or not."""
        with explaining("list its checkpoints"):
            names = os.listdir(self._folder)
        stems = [name[:-len(_SUFFIX)] for name in names if name.endswith(_SUFFIX)]
        return sorted(stem for stem in stems if is_id(stem))

    def version(self, checkpoint_id: str) -> Version:
        """Return what tells a manifest from every other that has had, or will have, its id.

        Raises `CheckpointNotFound`, `OSError`.
        """
        try:
            found = os.lstat(self._path(checkpoint_id))
        except FileNotFoundError as error:
            raise _not_found(checkpoint_id) from error
        return checkpoint_id, found.st_ino, found.st_mtime_ns

    def all(self) -> tuple[list[Manifest], list[tuple[str, IntegrityError]]]:
        """Return the readable manifests, newest first, and (id, error) for every other."""
        key = self._layout.read_key()
        found: list[Manifest] = []
        problems: list[tuple[str, IntegrityError]] = []
        for checkpoint_id in self.ids():
            try:
                found.append(self._parsed(checkpoint_id, key))
            except CheckpointNotFound:
                continue  # removed by somebody else since the listing
            except IntegrityError as error:
                problems.append((checkpoint_id, error))
        found.sort(key=lambda manifest: (manifest.created_at, manifest.id), reverse=True)
        return found, problems

    def holds(self, checkpoint_id: str) -> bool:
        """Tell whether there is a checkpoint with this full id, readable or not."""
        return os.path.lexists(self._path(checkpoint_id))

    def read(self, checkpoint_id: str) -> Manifest:
        """Return the manifest with this full id, its signature verified.

        Raises `CheckpointNotFound`, `ManifestCorrupt`, `SignatureInvalid`,
        `FormatTooNew`.
        """
        return self._parsed(checkpoint_id, self._layout.read_key())

    def resolve(self, text: str) -> str:
        """Return the id that `text` (an id, a unique prefix of one, or a name) stands for.

        Raises `MalformedId`, `CheckpointNotFound`, `AmbiguousId`.
        """
        checked_reference(text)
        if is_id_prefix(text):
            matching = [one for one in self.ids() if one.startswith(text)]
            if text in matching:
                return text
            return self._only(text, matching, "start with")
        manifests, problems = self.all()
        matching = [manifest.id for manifest in manifests if manifest.name == text]
        if not matching and problems:
            raise CheckpointNotFound(
                f"No readable checkpoint is named {quoted(text)}.",
                f"{len(problems)} cannot be read; 'jupyter ckpt verify' says why.")
        return self._only(text, matching, "are named")

    @staticmethod
    def _only(text: str, matching: list[str], how: str) -> str:
        if not matching and is_too_short(text):
            raise CheckpointNotFound(
                f"No checkpoint is named {quoted(text)}, which is too short for the beginning "
                "of an id.", "Give at least 4 digits; 'jupyter ckpt list' shows the ids.")
        if not matching:
            raise CheckpointNotFound(f"There is no checkpoint {quoted(text)}.",
                                     "'jupyter ckpt list' shows the checkpoints.")
        if len(matching) > 1:
            raise AmbiguousId(f"{len(matching)} checkpoints {how} {quoted(text)}: "
                              f"{', '.join(matching[:5])}{', ...' if len(matching) > 5 else ''}.",
                              "Give more digits of the id.")
        return matching[0]

    def check_name_free(self, name: str, besides: str | None = None) -> None:
        """Raise `NameTaken` when a checkpoint other than `besides` is called `name`."""
        for manifest in self.all()[0]:
            if manifest.name == name and manifest.id != besides:
                raise NameTaken(f"Checkpoint {manifest.id} is already named {name!r}.",
                                "Choose another name, or rename that one with "
                                "'jupyter ckpt rename'.")

    def check_plain(self) -> None:
        """Raise `EncryptionKeyMissing` when a checkpoint of ours is encrypted.

        Asked where no description of a key is: it was there when that checkpoint was made.
        """
        if any(manifest.format == ENCRYPTED_FORMAT for manifest in self.all()[0]):
            raise self._layout.description_is_gone()

    def publish(self, manifest: Manifest, place: Path) -> Manifest:
        """Make a new checkpoint visible, durably, and return it as published.

        `place` is a private folder of the store to write in.

        Raises `NameTaken`, `UsageError` (the id exists, the note is too long),
        `CannotBeSaved` (too long to be read back), `OSError`; the checkpoint is
        not visible then.
        """
        if manifest.name is not None:
            manifest = replace(manifest, name=checked_name(manifest.name))
        if self._layout.cipher is not None:  # or an older version would call its chunks damaged
            manifest = replace(manifest, format=ENCRYPTED_FORMAT)
        checked_note(manifest.note)
        data = manifest.to_dict()
        Manifest.from_dict(data)  # never publish what a reader would refuse
        content = _sealed(data, self._layout.read_key())
        target = self._path(manifest.id)
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            if manifest.name is not None:
                self.check_name_free(manifest.name)
            if os.path.lexists(target):
                raise UsageError(f"There is a checkpoint {manifest.id} already.",
                                 "Use a fresh id for each checkpoint.")
            written = place / f"manifest-{secrets.token_hex(4)}"
            write_synced(written, content)
            point("store.manifest-written")
            os.rename(written, target)  # the commit point: from here on it is seen
            try:
                point("store.manifest-named")
                sync_folder(self._folder)
            except OSError:
                os.unlink(target)  # a crash could take it away again: better not seen at all
                raise
            point("store.committed")
        return manifest

    def update(self, checkpoint_id: str, changes: dict[str, Any]) -> Manifest:
        """Change name, note, pinned or parked of a checkpoint; return the new manifest.

        Raises what `read` does, `NameTaken`, `UsageError` (other fields, a bad
        name or type), `OSError`; the manifest is as before then.
        """
        if unknown := set(changes) - _CHANGEABLE:
            raise UsageError(f"These fields of a checkpoint never change: "
                             f"{', '.join(sorted(unknown))}.")
        if changes.get("name") is not None:
            changes = {**changes, "name": checked_name(str(changes["name"]))}
        if isinstance(changes.get("note"), str):
            checked_note(changes["note"])
        key = self._layout.read_key()
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            # From the file's own fields: what a later version added is kept.
            data = {**self._fields(checkpoint_id, key), **changes}
            try:
                manifest = Manifest.from_dict(data)
            except ManifestCorrupt as error:
                raise UsageError(f"Checkpoint {checkpoint_id} cannot be changed so: "
                                 f"{error.message}") from error
            if manifest.name is not None:
                self.check_name_free(manifest.name, besides=checkpoint_id)
            self._replace(checkpoint_id, data, key)
        return manifest

    def adopt(self, checkpoint_id: str, prove: Callable[[Manifest], None]) -> Manifest:
        """Sign a manifest that another key signed, after `prove` found its content whole.

        Raises what `prove` raises, `ManifestCorrupt`, `FormatTooNew`,
        `OSError`; the manifest is as before then.
        """
        key, stored = self._layout.read_key(), self._stored(checkpoint_id)
        data = unverified(stored, checkpoint_id)
        manifest = Manifest.from_dict(data)
        if manifest.id != checkpoint_id:
            raise ManifestCorrupt(f"The manifest file of checkpoint {checkpoint_id} holds "
                                  f"that of {manifest.id}.", "Give the file its own name.")
        prove(manifest)  # before the lock: gigabytes are read
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            if self._stored(checkpoint_id) != stored:
                raise ManifestCorrupt(f"Checkpoint {checkpoint_id} was changed meanwhile.",
                                      "Try again.")
            self._replace(checkpoint_id, data, key)
        return manifest

    def _replace(self, checkpoint_id: str, data: dict[str, Any], key: bytes) -> None:
        content = _sealed(data, key)
        temporary = self._folder / f".{checkpoint_id}-{secrets.token_hex(4)}"
        try:
            write_synced(temporary, content)
            point("store.update-written")
            os.rename(temporary, self._path(checkpoint_id))
            point("store.update-named")
            sync_folder(self._folder)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, checkpoint_id: str) -> None:
        """Remove a checkpoint, readable or not; raises `CheckpointNotFound`, `OSError`."""
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            self._unlink(checkpoint_id)

    def remove_if(self, checkpoint_id: str, may_go: Callable[[Manifest], bool]) -> bool:
        """Remove a checkpoint that nobody reads and that, as it is now, `may_go`.

        Tells whether it was removed; nobody changes it between question and removal.
        Raises what `read` does, and `OSError`.
        """
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            if not may_go(self.read(checkpoint_id)) or is_read(self._layout.tmp, checkpoint_id):
                return False
            self._unlink(checkpoint_id)
        return True

    def _unlink(self, checkpoint_id: str) -> None:
        try:
            os.unlink(self._path(checkpoint_id))
        except FileNotFoundError as error:
            raise _not_found(checkpoint_id) from error
        point("store.removed")
        sync_folder(self._folder)

    def remove_leftovers(self) -> None:
        """Remove what an update that was killed left behind."""
        with LockFile(self._layout.names_lock) as lock, lock.held(EXCLUSIVE):
            for name in os.listdir(self._folder):
                if name.startswith(".") and is_id(name[1:].partition("-")[0]):
                    os.unlink(self._folder / name)

    def _path(self, checkpoint_id: str) -> Path:
        if not is_id(checkpoint_id):
            raise _not_found(checkpoint_id)
        return self._folder / f"{checkpoint_id}{_SUFFIX}"

    def _parsed(self, checkpoint_id: str, key: bytes) -> Manifest:
        return Manifest.from_dict(self._fields(checkpoint_id, key))

    def _fields(self, checkpoint_id: str, key: bytes) -> dict[str, Any]:
        data = opened(self._stored(checkpoint_id), key, checkpoint_id)
        if data.get("id") != checkpoint_id:
            # Validly signed, but under another id: somebody moved files.
            raise ManifestCorrupt(f"The manifest file of checkpoint {checkpoint_id} holds that of "
                                  f"{quoted(data.get('id'))}.", "Give the file its own name again.")
        return data

    def _stored(self, checkpoint_id: str) -> bytes:
        try:
            descriptor = os.open(self._path(checkpoint_id), _READ_FLAGS)
        except FileNotFoundError as error:
            raise _not_found(checkpoint_id) from error
        except OSError as error:
            raise ManifestCorrupt(f"The manifest of checkpoint {checkpoint_id} cannot be opened: "
                                  f"{error.strerror}.") from error
        try:
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                return file.read(MAX_MANIFEST_BYTES)
        except OSError as error:
            raise ManifestCorrupt(f"The manifest of checkpoint {checkpoint_id} cannot be read: "
                                  f"{error.strerror}.") from error


def _sealed(data: dict[str, Any], key: bytes) -> bytes:
    """Return the content of a manifest file; raise `CannotBeSaved` for more than is read back."""
    content = sealed(data, key)
    if len(content) > MAX_MANIFEST_BYTES:
        raise CannotBeSaved(
            f"The description of checkpoint {data['id']} has {len(content)} bytes, and at most "
            f"{MAX_MANIFEST_BYTES} are read back.",
            "The session has too many files open, or too many processes.")
    return content


def _not_found(checkpoint_id: str) -> CheckpointNotFound:
    return CheckpointNotFound(f"There is no checkpoint {quoted(checkpoint_id)}.",
                              "'jupyter ckpt list' shows the checkpoints.")
