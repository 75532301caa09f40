"""Signed manifests: ``{"manifest": {...}, "signature": "<hex>"}``.

The signature is HMAC-SHA256 with the store's key over the canonical JSON of
the manifest (sorted keys, no spaces, ASCII). It keeps a manifest that somebody
edited, or brought from another user, from being restored as one's own memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from ..errors import FormatTooNew, ManifestCorrupt, SignatureInvalid, quoted
from ..manifest import FORMAT

_PURPOSE = b"jupyter_ckpt manifest\n"
_HEAD, _MIDDLE, _TAIL = b'{"manifest":', b',"signature":"', b'"}\n'
_SIGNATURE_CHARS = 64


def canonical(data: dict[str, Any]) -> bytes:
    """Return the bytes of `data` that are signed."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def signature(text: bytes, key: bytes) -> str:
    """Return the signature of canonical bytes."""
    return hmac.new(key, _PURPOSE + text, hashlib.sha256).hexdigest()


def sealed(data: dict[str, Any], key: bytes) -> bytes:
    """Return the content of a manifest file."""
    text = canonical(data)
    return _HEAD + text + _MIDDLE + signature(text, key).encode() + _TAIL


def opened(stored: bytes, key: bytes, name: str) -> dict[str, Any]:
    """Return the manifest's fields from the content of its file.

    `name` is what messages call it. Raises `ManifestCorrupt` when it is no
    manifest file, `FormatTooNew` before looking at the signature (a newer one
    may sign in another way), `SignatureInvalid` when the key did not sign it.
    """
    data, text, signed = _parts(stored, name)
    version = data.get("format")
    if type(version) is int and version > FORMAT:
        raise FormatTooNew(f"Checkpoint {name} has format {quoted(version)}; "
                           f"this jupyter_ckpt reads up to {FORMAT}.",
                           "Upgrade jupyter-ckpt to use this checkpoint.")
    if not hmac.compare_digest(signature(text, key).encode(), signed.encode(errors="replace")):
        raise SignatureInvalid(f"The manifest of checkpoint {name} was changed after it was "
                               "written, or was written by another user.",
                               "Restore the file from a backup, or remove the checkpoint with "
                               f"'jupyter ckpt rm {name}'. If somebody you trust gave it to you: "
                               f"'jupyter ckpt restore {name} --trust-foreign-signature'.")
    return data


def unverified(stored: bytes, name: str) -> dict[str, Any]:
    """Return the fields whoever signed them; raises `ManifestCorrupt`.

    Only for showing or adopting a checkpoint that somebody handed over.
    """
    return _parts(stored, name)[0]


def _parts(stored: bytes, name: str) -> tuple[dict[str, Any], bytes, str]:
    """Return the fields, their canonical bytes and the claimed signature."""
    cut = len(stored) - len(_TAIL) - _SIGNATURE_CHARS
    try:
        if (stored.startswith(_HEAD) and stored.endswith(_TAIL)
                and stored[cut - len(_MIDDLE):cut] == _MIDDLE):
            # The usual case, without writing the JSON anew: it is canonical as it stands.
            text = stored[len(_HEAD):cut - len(_MIDDLE)]
            data, signed = json.loads(text), stored[cut:-len(_TAIL)].decode()
        else:
            outer = json.loads(stored)
            data, signed = outer["manifest"], outer["signature"]
            text = canonical(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _corrupt(name) from error
    if not isinstance(data, dict) or not isinstance(signed, str):
        raise _corrupt(name)
    return data, text, signed


def _corrupt(name: str) -> ManifestCorrupt:
    return ManifestCorrupt(f"The manifest of checkpoint {name} is damaged.",
                           "Restore the file from a backup, or remove the checkpoint with "
                           f"'jupyter ckpt rm {name}'.")
