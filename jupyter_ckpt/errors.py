"""Every error this project raises on purpose, as one tree.

::

    CheckpointError                     exit  http
     ├─ UsageError                        2    400   a request that makes no sense
     │   ├─ MalformedId                   2    400   it can name nothing
     │   ├─ AmbiguousId                   2    409   several answer to it
     │   ├─ NameTaken                     2    409
     │   ├─ StaleEpoch                    2    409   meant for what was replaced meanwhile
     │   └─ ProtocolError                 2    400   bad bytes on a socket
     │       └─ RequestTooSlow            2    408
     ├─ NotFound                          3    404
     │   ├─ CheckpointNotFound
     │   ├─ KernelNotFound
     │   └─ JobNotFound
     ├─ NotPossibleHere                   4    501   engine or privileges
     │   ├─ CriuMissing
     │   ├─ CriuBroken
     │   ├─ ModeUnavailable
     │   ├─ NotOurKernel                  4    409   a kernel without an agent
     │   ├─ StoreUnusable                 4    503   not writable, open permissions, ...
     │   ├─ RuntimeUnusable               4    503   the same for the folder of sockets
     │   ├─ EncryptionKeyMissing          4    503   an encrypted store, and no key that fits
     │   └─ AgentUnreachable              4    503
     │       └─ AgentBusy                 4    503
     ├─ DumpFailed                        5    500
     │   ├─ CannotBeSaved                 5    409   a resource CRIU cannot save
     │   ├─ CheckpointRefused             5    409   a hook said no
     │   ├─ Cancelled                     5    409
     │   ├─ OutOfSpace                    5    507
     │   └─ LaunchFailed                  5    500   a kernel that did not start
     ├─ RestoreFailed                     6    500
     │   └─ RestoreRefused                6    409   preflight said no, nothing touched
     └─ IntegrityError                    7    422
         ├─ ManifestCorrupt
         ├─ SignatureInvalid
         ├─ FormatTooNew
         ├─ ChunkMissing
         ├─ ChunkCorrupt
         └─ RecordCorrupt

``exit_code`` is what ``jupyter ckpt`` exits with, ``http_status`` what the
agent and the server answer, ``message_id`` a stable name for programs.
A message says what failed and on what; ``hint`` says what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CheckpointError(Exception):
    """Root of the tree: something this project knows how to explain.

    ``message`` is one sentence for a person, ``hint`` the next step (may be
    empty), ``log`` the path of a log that tells more (may be empty).
    """

    exit_code: ClassVar[int] = 5
    http_status: ClassVar[int] = 500
    message_id: ClassVar[str] = "checkpoint-error"

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form used by the CLI, the agent and the server."""
        found: dict[str, Any] = {
            "code": self.exit_code,
            "id": self.message_id,
            "message": self.message,
            "hint": self.hint,
        }
        if self.log:
            found["log"] = self.log
        return found


class UsageError(CheckpointError):
    """A request that makes no sense as it was put; nothing was done."""

    exit_code, http_status, message_id = 2, 400, "usage"


class MalformedId(UsageError):
    """What was given can name neither a checkpoint nor a kernel."""

    message_id = "malformed-id"


class AmbiguousId(UsageError):
    """The beginning of an id, or a kernel, that several answer to."""

    http_status, message_id = 409, "ambiguous-id"


class NameTaken(UsageError):
    """Another checkpoint has this name already."""

    http_status, message_id = 409, "name-taken"


class StaleEpoch(UsageError):
    """The request was meant for another incarnation of the kernel than the one that runs."""

    http_status, message_id = 409, "stale-epoch"


class ProtocolError(UsageError):
    """Bytes on a socket that are no request of this protocol."""

    message_id = "protocol"


class RequestTooSlow(ProtocolError):
    """A request that did not come in full in time."""

    http_status, message_id = 408, "too-slow"


class NotFound(CheckpointError):
    """Something that was named does not exist."""

    exit_code, http_status, message_id = 3, 404, "not-found"


class CheckpointNotFound(NotFound):
    """No checkpoint has this id or name."""

    message_id = "checkpoint-not-found"


class KernelNotFound(NotFound):
    """No such kernel runs here."""

    message_id = "kernel-not-found"


class JobNotFound(NotFound):
    """The agent or the server knows no job with this id."""

    message_id = "job-not-found"


class NotPossibleHere(CheckpointError):
    """This machine, or this user on it, cannot do what was asked."""

    exit_code, http_status, message_id = 4, 501, "not-possible-here"


class CriuMissing(NotPossibleHere):
    """No CRIU was found."""

    message_id = "criu-missing"


class CriuBroken(NotPossibleHere):
    """The CRIU that was found cannot save and restore even a tiny process here."""

    message_id = "criu-broken"


class ModeUnavailable(NotPossibleHere):
    """The privilege mode that was asked for cannot be had."""

    message_id = "mode-unavailable"


class NotOurKernel(NotPossibleHere):
    """The kernel was not started so that it can be saved."""

    http_status, message_id = 409, "not-our-kernel"


class StoreUnusable(NotPossibleHere):
    """The checkpoint store is not a private, writable folder."""

    http_status, message_id = 503, "store-unusable"


class RuntimeUnusable(NotPossibleHere):
    """The folder of sockets and records is not this user's alone."""

    http_status, message_id = 503, "runtime-unusable"


class EncryptionKeyMissing(NotPossibleHere):
    """The store is encrypted, and its key was not found or does not fit."""

    http_status, message_id = 503, "encryption-key"


class AgentUnreachable(NotPossibleHere):
    """The agent beside the kernel does not answer, and no new one could be started."""

    http_status, message_id = 503, "agent-unreachable"


class AgentBusy(AgentUnreachable):
    """The agent lives and has as many requests at work as it takes."""

    message_id = "agent-busy"


class DumpFailed(CheckpointError):
    """Saving failed; the kernel goes on and no checkpoint is visible."""

    exit_code, http_status, message_id = 5, 500, "dump-failed"


class CannotBeSaved(DumpFailed):
    """The session holds a resource that cannot be saved; the message names it."""

    http_status, message_id = 409, "cannot-be-saved"


class CheckpointRefused(DumpFailed):
    """A hook in the session said that this is no moment to be saved."""

    http_status, message_id = 409, "refused-by-hook"


class Cancelled(DumpFailed):
    """The save was cancelled before it began."""

    http_status, message_id = 409, "cancelled"


class OutOfSpace(DumpFailed):
    """The disk is full."""

    http_status, message_id = 507, "out-of-space"


class LaunchFailed(DumpFailed):
    """A kernel could not be started."""

    message_id = "launch-failed"


class RestoreFailed(CheckpointError):
    """Bringing a session back failed; what ran before still runs, or was brought back."""

    exit_code, http_status, message_id = 6, 500, "restore-failed"


class RestoreRefused(RestoreFailed):
    """Something needed for the restore is missing or changed; nothing was touched."""

    http_status, message_id = 409, "restore-refused"


class IntegrityError(CheckpointError):
    """Stored data is not what was saved."""

    exit_code, http_status, message_id = 7, 422, "integrity"


class ManifestCorrupt(IntegrityError):
    """A checkpoint's manifest cannot be read."""

    message_id = "manifest-corrupt"


class SignatureInvalid(IntegrityError):
    """A manifest was altered, or belongs to another user."""

    message_id = "signature-invalid"


class FormatTooNew(IntegrityError):
    """The checkpoint was made by a newer jupyter_ckpt."""

    message_id = "format-too-new"


class ChunkMissing(IntegrityError):
    """A piece of a checkpoint's data is missing."""

    message_id = "chunk-missing"


class ChunkCorrupt(IntegrityError):
    """A piece of a checkpoint's data was altered."""

    message_id = "chunk-corrupt"


class RecordCorrupt(IntegrityError):
    """The runtime record of a kernel cannot be read."""

    message_id = "record-corrupt"


def error_classes() -> dict[str, type[CheckpointError]]:
    """Return every class of the tree by its ``message_id``."""
    found: dict[str, type[CheckpointError]] = {}
    pending: list[type[CheckpointError]] = [CheckpointError]
    while pending:
        cls = pending.pop()
        found.setdefault(cls.message_id, cls)
        pending.extend(cls.__subclasses__())
    return found


def quoted(text: object, most: int = 60) -> str:
    """Return `text` in quotes for a message, shortened when somebody sent a novel."""
    found = repr(text)
    return found if len(found) <= most else f"{found[:most]}... ({len(str(text))} characters)"


def from_dict(data: Any) -> CheckpointError:
    """Rebuild the error that `CheckpointError.to_dict` described.

    An unknown ``id`` (a newer peer) becomes the nearest class with the same
    exit code, so that the exit code survives the trip.
    """
    if not isinstance(data, dict):
        return CheckpointError("It failed, and the answer does not say why.")
    by_id = error_classes()
    cls = by_id.get(str(data.get("id")))
    if cls is None:
        same = [c for c in by_id.values() if c.exit_code == data.get("code")]
        cls = min(same, key=lambda c: len(c.__mro__), default=CheckpointError)
    return cls(
        str(data.get("message", "")), str(data.get("hint", "")), str(data.get("log", ""))
    )
