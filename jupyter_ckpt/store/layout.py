"""The folders and files of a store, and who may touch them.

::

    <root>/             0700
      key               0600, 32 random bytes; signs the manifests of this user. In an
                        encrypted store `MARK` follows, so that a store whose
                        description is lost does not pass for a plain one
      encryption.json   in an encrypted store: the wrapped key of its chunks
      chunks/ab/abcd..  see chunks.py
      damaged/abcd..    notes of chunks that are to be written anew; see damage.py
      manifests/<id>.json
      tmp/<request>-x/  one folder for each running transaction: lock, claims, new chunks;
                        and one for each reader of a checkpoint: lock, claims, reads
      lock              shared: looking up chunks to reuse; exclusive: removing chunks
      names.lock        exclusive: publishing, changing or removing a manifest
      collect.lock      exclusive: one collection at a time; its time is that of the last one
      quota.json        how much the store may hold; see quota.py
      usage.json        a cache of how much it holds
      usage.lock        exclusive: counting that
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from ..errors import EncryptionKeyMissing, StoreUnusable, UsageError, quoted
from . import cipher
from .cipher import Cipher
from .disk import explaining, sync_folder, write_synced
from .locks import EXCLUSIVE, LockFile

KEY_BYTES = 32
MARK = b"encrypted\n"
_FOLDERS = ("chunks", "manifests", "tmp")
_OURS = re.compile(r"((names|collect|usage)\.)?lock|\.key-[0-9a-f]{8}"
                   r"|(encryption|quota|usage)\.json")
"""Files that a store may have before it has its key."""


class Layout:
    """The paths below a store's root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chunks = root / "chunks"
        self.damaged = root / "damaged"
        self.manifests = root / "manifests"
        self.tmp = root / "tmp"
        self.work = root / "work"
        self.key = root / "key"
        self.lock = root / "lock"
        self.names_lock = root / "names.lock"
        self.collect_lock = root / "collect.lock"
        self.cipher: Cipher | None = None
        """Names and seals chunks in an encrypted store; see `unlock`."""

    def create(self) -> None:
        """Make what is missing of the store; safe when several do so at once.

        Raises `StoreUnusable` or `OutOfSpace`. What was made stays then; a
        later call goes on from there.
        """
        with explaining(f"make the store {self.root}"):
            if not os.path.lexists(self.root):
                self.root.parent.mkdir(parents=True, exist_ok=True)
                self.root.mkdir(mode=0o700, exist_ok=True)
            self.check_root()
            if not os.path.lexists(self.key):
                self._check_begun_here()
            for name in _FOLDERS:
                if not os.path.lexists(self.root / name):
                    (self.root / name).mkdir(mode=0o700, exist_ok=True)
            if not os.path.lexists(self.key):
                self._make_key()

    def _check_begun_here(self) -> None:
        """Raise `StoreUnusable` where no store was begun and other things lie.

        What lies in the folders of a store is one day taken for the leftovers of dead writers.
        """
        folders = {*_FOLDERS, self.work.name}
        for name in os.listdir(self.root):
            path = self.root / name
            if path.is_dir() and name in folders and not any(path.iterdir()):
                continue
            if path.is_file() and _OURS.fullmatch(name):
                continue
            if os.path.lexists(self.key) or any(self.manifests.glob("*.json")):
                return  # one was begun in the meantime, or its key is gone: that is told
            raise StoreUnusable(
                f"{self.root} is no checkpoint store, and holds other things ({quoted(name)}).",
                "Choose an empty or a new folder with --store.")

    def _make_key(self) -> None:
        with LockFile(self.names_lock) as lock, lock.held(EXCLUSIVE):
            if os.path.lexists(self.key):
                return
            if any(name.endswith(".json") for name in os.listdir(self.manifests)):
                # A new key would make every checkpoint look forged.
                raise StoreUnusable(f"The key of the checkpoint store {self.root} is gone.",
                                    f"Put {self.key} back from a backup, or move the folder away "
                                    "to begin a new store.")
            mark = MARK if os.path.lexists(self.root / cipher.FILE_NAME) else b""
            self._write("key", secrets.token_bytes(KEY_BYTES) + mark)

    def _write(self, name: str, data: bytes) -> None:
        """Write a file of the root folder, whole or not at all; the caller holds a lock."""
        for leftover in self.root.glob(f".{name}-*"):
            leftover.unlink()  # whoever was writing it has died: we hold the lock
        temporary = self.root / f".{name}-{secrets.token_hex(4)}"
        write_synced(temporary, data)
        os.rename(temporary, self.root / name)
        sync_folder(self.root)

    def unlock(self) -> None:
        """Find out whether the store is encrypted, and get its key.

        Raises `EncryptionKeyMissing` and what `cipher.of_store` does.
        """
        self.cipher = cipher.of_store(self.root)

    def unlock_for_writing(self) -> None:
        """Get the key as `unlock` does, and refuse to write in clear what must not be.

        Called under the lock that `encrypt` takes and before it can be taken again: the
        store may have become an encrypted one since this object was made. Raises
        `EncryptionKeyMissing` also where the store is or was encrypted and its
        description is gone.
        """
        was_encrypted = self.cipher is not None
        self.unlock()
        if self.cipher is None and (was_encrypted or self._stored_key()[KEY_BYTES:] == MARK):
            raise self.description_is_gone()

    def description_is_gone(self) -> EncryptionKeyMissing:
        return EncryptionKeyMissing(
            f"The store {self.root} is encrypted, and its {cipher.FILE_NAME} is gone: nothing is "
            "saved here in clear.",
            "Put that file back from a backup, or choose another folder with --store. A store "
            "without checkpoints can be encrypted anew: jupyter ckpt encrypt.")

    def encrypt(self, key_file: Path, kind: str, make_key: bool) -> None:
        """Make this store, which holds nothing yet, an encrypted one.

        Raises `UsageError` (it holds something, or is encrypted), and what
        `cipher.make_key` and `cipher.description` do; it is as before then. An error of
        the disk may leave one that takes nothing until this is done again.
        """
        with explaining("begin its encryption"), LockFile(self.lock) as lock, lock.held(EXCLUSIVE):
            if os.path.lexists(self.root / cipher.FILE_NAME):
                raise UsageError(f"The store {self.root} is encrypted already.")
            self._check_empty()
            if make_key:
                cipher.make_key(key_file)
            described = cipher.description(key_file, kind)
            # The mark comes first: at no moment are there encrypted chunks without it.
            with LockFile(self.names_lock) as names, names.held(EXCLUSIVE):
                self._write("key", self.read_key() + MARK)
            self._write(cipher.FILE_NAME, described)
        self.unlock()

    def _check_empty(self) -> None:
        """Raise `UsageError` while anything lies in the store that was saved in clear."""
        if any(name.endswith(".json") for name in os.listdir(self.manifests)):
            raise UsageError(
                f"The store {self.root} holds checkpoints that are not encrypted.",
                "Choose a new folder with --store, or remove them with 'jupyter ckpt rm' "
                "and 'jupyter ckpt gc'.")
        chunks = any(files for _, _, files in os.walk(self.chunks))
        work = self.work.is_dir() and any(self.work.iterdir())
        if chunks or work or any(self.tmp.iterdir()):
            raise UsageError(
                f"The store {self.root} still holds data that is not encrypted: of removed "
                "checkpoints, or of saves and restores that run or were cut short.",
                "Run 'jupyter ckpt gc' when no save runs, then encrypt it; or choose a new "
                "folder with --store.")

    def check_root(self) -> None:
        """Raise `StoreUnusable` unless the root folder is this user's alone."""
        found = self._status(self.root, follow=False)
        if stat.S_ISLNK(found.st_mode):
            # Somebody may keep the store on another disk; nobody else may point us elsewhere.
            if found.st_uid not in (os.geteuid(), 0):
                raise StoreUnusable(f"{self.root} is a link made by another user.",
                                    "Remove the link.")
            found = self._status(self.root, follow=True)
        if not stat.S_ISDIR(found.st_mode):
            raise StoreUnusable(f"The checkpoint store {self.root} is not a folder.",
                                "Choose another folder with --store.")
        self._check_owner(self.root, found)
        self._check_private(self.root, found)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnusable(f"The checkpoint store {self.root} is not writable.",
                                self._how_to_write())

    def _how_to_write(self) -> str:
        if os.statvfs(self.root).f_flag & os.ST_RDONLY:
            return ("Its file system is mounted read-only: choose another folder with --store, "
                    "or copy the store to a place that can be written.")
        return f"Run: chmod 700 '{self.root}'"

    def check(self) -> None:
        """Raise `StoreUnusable` unless the whole layout is there and this user's alone."""
        self.check_root()
        for name in _FOLDERS:
            path = self.root / name
            found = self._status(path, follow=False)
            if not stat.S_ISDIR(found.st_mode):
                raise StoreUnusable(f"{path} is not a folder of its own.",
                                    "Links are not followed here; move the real folder back.")
            self._check_owner(path, found)
            self._check_private(path, found)
        if os.path.lexists(self.work):
            found = self._status(self.work, follow=False)
            if not stat.S_ISDIR(found.st_mode):
                raise StoreUnusable(f"{self.work} is not a folder of its own.",
                                    "Remove it: it holds nothing but unpacked images.")
            self._check_owner(self.work, found)
            self._check_private(self.work, found)

    def read_key(self) -> bytes:
        """Return the signing key; raise `StoreUnusable` unless it is private and whole."""
        found = self._status(self.key, follow=False)
        if not stat.S_ISREG(found.st_mode):
            raise StoreUnusable(f"{self.key} is not a regular file.",
                                "Put the key back from a backup.")
        self._check_owner(self.key, found)
        self._check_private(self.key, found)
        key = self._stored_key()
        if key[KEY_BYTES:] not in (b"", MARK) or len(key) < KEY_BYTES:
            raise StoreUnusable(f"{self.key} has {len(key)} bytes instead of {KEY_BYTES}.",
                                "Put the key back from a backup.")
        return key[:KEY_BYTES]

    def _stored_key(self) -> bytes:
        with explaining(f"read {self.key}"):
            return self.key.read_bytes()

    def _status(self, path: Path, follow: bool) -> os.stat_result:
        try:
            return os.stat(path, follow_symlinks=follow)
        except FileNotFoundError as error:
            raise StoreUnusable(f"{path} does not exist.",
                                "The first checkpoint makes it; or check --store.") from error
        except OSError as error:
            raise StoreUnusable(f"{path} cannot be looked at: {error.strerror}.",
                                "Check the permissions of the folders above it.") from error

    def _check_owner(self, path: Path, found: os.stat_result) -> None:
        if found.st_uid != os.geteuid():
            raise StoreUnusable(f"{path} belongs to another user (uid {found.st_uid}).",
                                "Choose a folder of your own with --store.")

    def _check_private(self, path: Path, found: os.stat_result) -> None:
        if found.st_mode & 0o077:
            mode = "600" if stat.S_ISREG(found.st_mode) else "700"
            # One like /tmp is everybody's, and must stay so.
            hint = ("Choose a folder of your own with --store." if found.st_mode & stat.S_ISVTX
                    else f"Run: chmod {mode} '{path}'")
            raise StoreUnusable(f"Other users may enter or read {path}; "
                                "checkpoints hold all memory of a kernel.", hint)
