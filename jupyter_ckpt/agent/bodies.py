"""What the requests for acts may hold: checked before anything is done for them.

Only types: what a value means is for the act to judge, which knows the kernel and
the store. Fields that are not named are ignored, so that newer callers are understood.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ProtocolError
from ..protocol import PORT_NAMES
from ..shapes import misfit

_ALL = {"epoch?": (int, None), "store?": (str, None), "asker?": str}
_BELONGING = {"connection_file?": (Path, None), "notebook?": (Path, None),
              "session?": (dict, None), "owner?": (dict, None), "schedule?": (dict, None)}
_DOCUMENT = {"path?": (Path, None), "content_base64?": (str, None)}
_CONNECTION = {"key?": (str, None), **{f"{name}?": int for name in PORT_NAMES}}

SHAPES: dict[str, dict[str, Any]] = {
    "launches": {
        **_ALL, **_BELONGING, "cmd": [str], "env": dict, "kernel_name?": str, "language?": str,
        "cwd?": (Path, None), "umask?": int},
    "checkpoints": {
        **_ALL, "name?": (str, None), "note?": (str, None), "pin?": (bool, None),
        "trigger?": str, "purpose?": (str, None), "document?": (_DOCUMENT, None),
        "unless_saved?": bool, "verify?": bool},
    "restores": {
        **_ALL, **_BELONGING, "checkpoint": str, "files?": (str, None), "wait_s?": (float, None),
        "shared?": (bool, None), "in_place?": (bool, None), "connection?": (_CONNECTION, None)},
}
"""The shape of each kind's body; see `jupyter_ckpt.shapes`."""


def check_body(kind: str, body: dict[str, Any]) -> None:
    """Raise `ProtocolError` naming the first field of a request that has no such value."""
    place = misfit(body, SHAPES[kind])
    if place is not None:
        raise ProtocolError(
            f"In the request, '{place[:100]}' is missing or has the wrong type.")
