"""Encryption at rest: what is in a chunk, and what its name gives away.

A store is encrypted from its beginning or not at all. Its random *store key*
lies in ``encryption.json``, wrapped (AES-256-GCM) by a key that is not in the
store: made of a key file, or by scrypt of a passphrase that a file holds. Of
the store key two are derived: one encrypts chunks (AES-256-GCM with a random
nonce, the chunk's name and header bound to it), one keys the hash that names
them, so that nobody can tell from a name whether some known bytes are stored.

The manifests stay readable: names, notes, sizes, names of processes and files.
Hashes of contents in them are keyed, too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import struct
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from blake3 import blake3

from ..errors import EncryptionKeyMissing, IntegrityError, NotPossibleHere, UsageError
from ..shapes import misfit
from .disk import sync_folder, write_synced

FILE_NAME = "encryption.json"
VARIABLE = "JUPYTER_CKPT_KEY_FILE"
"""Names another key file than the one the store remembers."""
MAGIC = b"JCE1"
HEADER = struct.Struct("<4sQI")
"""Magic, raw length, length of what follows the nonce."""
NONCE_BYTES = 12
KINDS = ("key-file", "passphrase")
_KEY_BYTES = 32
_MOST_SECRET_BYTES = 1 << 20
_LEAST_SECRET_BYTES = {"key-file": 32, "passphrase": 8}
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1}
_CONTEXT = "jupyter_ckpt 2026 "
_SHAPE = {"format": int, "kind": str, "key_file": Path, "salt": str, "wrapped": str}


class Cipher:
    """Names, encrypts and decrypts chunks. Safe for several threads at once."""

    def __init__(self, store_key: bytes) -> None:
        self._name_key = _derived(store_key, "names of chunks")
        self._document_key = _derived(store_key, "hashes of documents")
        self._aead = _aead(_derived(store_key, "content of chunks"))

    def digest(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return the 32 bytes that name `data` in this store."""
        return blake3(data, key=self._name_key).digest()

    def document_hash(self, data: bytes) -> str:
        """Return what stands for `data` in a readable manifest: HMAC-SHA256, in hex."""
        return hmac.new(self._document_key, data, hashlib.sha256).hexdigest()

    def sealed(self, stored: bytes, raw_bytes: int, digest: bytes) -> bytes:
        """Return the chunk file for `stored` (raw or framed bytes of the chunk `digest`)."""
        header = HEADER.pack(MAGIC, raw_bytes, len(stored) + 16)
        nonce = secrets.token_bytes(NONCE_BYTES)
        found: bytes = self._aead.encrypt(nonce, stored, header + digest)
        return b"".join((header, nonce, found))

    def opened(self, sealed: bytes | memoryview, digest: bytes) -> bytes | None:
        """Return what `sealed` was made of; None unless it is whole and was sealed here."""
        from cryptography.exceptions import InvalidTag

        start = HEADER.size + NONCE_BYTES
        if len(sealed) < start or sealed[:4] != MAGIC:
            return None
        header = bytes(sealed[:HEADER.size])
        try:
            found: bytes = self._aead.decrypt(
                bytes(sealed[HEADER.size:start]), bytes(sealed[start:]), header + digest)
        except InvalidTag:
            return None
        return found


def make_key(path: Path) -> None:
    """Make a key file at `path` unless something is there; it is on the disk afterwards.

    Nobody ever removes it again: another store may have begun to use it. Raises
    `NotPossibleHere` (without the library it would be of no use) and `UsageError`.
    """
    _aead(bytes(_KEY_BYTES))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            with suppress(FileExistsError):  # another run was first
                write_synced(path, secrets.token_bytes(_KEY_BYTES))
        # Before anything is encrypted with it: a crash must not take its name away.
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be made: {error.strerror}.",
                         "Choose another place with --key-file.") from error


def description(key_file: Path, kind: str) -> bytes:
    """Return the description of a new store key, wrapped by what `key_file` holds.

    Raises `EncryptionKeyMissing`, and `NotPossibleHere` without the library.
    """
    salt = secrets.token_bytes(16)
    wrapping = _aead(_wrapping_key(_secret(key_file, kind), kind, salt))
    nonce = secrets.token_bytes(NONCE_BYTES)
    wrapped = nonce + wrapping.encrypt(nonce, secrets.token_bytes(_KEY_BYTES), salt)
    told = {"format": 1, "kind": kind, "key_file": str(key_file), "salt": salt.hex(),
            "wrapped": wrapped.hex()}
    return json.dumps(told, indent=1).encode()


def of_store(folder: Path) -> Cipher | None:
    """Return the cipher of the store in `folder`, None when it is not encrypted.

    Raises `EncryptionKeyMissing` when the key is not to be had or does not
    fit, and `IntegrityError` when its description is damaged.
    """
    try:
        told = json.loads((folder / FILE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder) from error
    if misfit(told, _SHAPE) is not None or told["kind"] not in KINDS:
        raise _damaged(folder)
    if told["format"] != 1:
        raise NotPossibleHere(f"The store {folder} is encrypted in a newer way.",
                              "Upgrade jupyter-ckpt to use it.")
    key_file = Path(os.environ.get(VARIABLE) or told["key_file"])
    return _opened(folder, key_file, _secret(key_file, told["kind"]), told)


def _opened(folder: Path, key_file: Path, secret: bytes, told: dict[str, Any]) -> Cipher:
    try:
        salt, wrapped = bytes.fromhex(told["salt"]), bytes.fromhex(told["wrapped"])
    except ValueError as error:
        raise _damaged(folder) from error
    cipher = _unwrapped(secret, told["kind"], salt, wrapped)
    if cipher is None:
        raise EncryptionKeyMissing(
            f"The key in {key_file} does not open the encrypted store {folder}.",
            f"Name the right key file with {VARIABLE}.")
    return cipher


@lru_cache(maxsize=8)  # scrypt takes its time on purpose, and a store is opened often
def _unwrapped(secret: bytes, kind: str, salt: bytes, wrapped: bytes) -> Cipher | None:
    from cryptography.exceptions import InvalidTag

    try:
        return Cipher(_aead(_wrapping_key(secret, kind, salt)).decrypt(
            wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], salt))
    except (InvalidTag, ValueError):
        return None


def _wrapping_key(secret: bytes, kind: str, salt: bytes) -> bytes:
    if kind == "key-file":
        return _derived(secret + salt, "key file")
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    found: bytes = Scrypt(salt=salt, length=_KEY_BYTES, **_SCRYPT).derive(secret.strip())
    return found


def _secret(path: Path, kind: str) -> bytes:
    """Return what a key file holds; raise `EncryptionKeyMissing` unless it is private."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EncryptionKeyMissing(
            f"The key file {path} cannot be opened: {error.strerror}.",
            f"Mount or restore it, or name another with {VARIABLE}.") from error
    try:
        _check_private(path, os.fstat(handle))
        secret = os.read(handle, _MOST_SECRET_BYTES)
    finally:
        os.close(handle)
    if len(secret.strip() if kind == "passphrase" else secret) < _LEAST_SECRET_BYTES[kind]:
        raise EncryptionKeyMissing(f"The key file {path} is too short.",
                                   f"It needs {_LEAST_SECRET_BYTES[kind]} bytes at least.")
    return secret


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise EncryptionKeyMissing(f"The key file {path} is not a file of yours.",
                                   "Use a regular file that belongs to you.")
    if found.st_mode & 0o077:
        raise EncryptionKeyMissing(f"Other users may read the key file {path}.",
                                   f"Run: chmod 600 '{path}'")


def _derived(secret: bytes, purpose: str) -> bytes:
    return blake3(secret, derive_key_context=_CONTEXT + purpose).digest()


def _aead(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise NotPossibleHere("Encrypted stores need the library 'cryptography'.",
                              "Run: pip install 'jupyter-ckpt[encryption]'") from error
    return AESGCM(key)


def _damaged(folder: Path) -> IntegrityError:
    return IntegrityError(f"{folder / FILE_NAME} is damaged: without it no chunk can be read.",
                          "Put it back from a backup.")
