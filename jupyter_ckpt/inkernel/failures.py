"""What a user's code can catch when a checkpoint does not come about."""

from __future__ import annotations

from typing import Any


class CheckpointFailed(Exception):
    """A checkpoint or a question to the agent failed; the session goes on."""

    def __init__(self, message: str, hint: str = "", message_id: str = "dump-failed") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.message_id = message_id

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class CheckpointRefused(CheckpointFailed):
    """Raise it in a function given to `on_checkpoint` to refuse the checkpoint.

    `checkpoint()` and ``%checkpoint`` raise it too, when a hook has refused.
    """

    def __init__(self, message: str = "A hook refused the checkpoint.", hint: str = "",
                 message_id: str = "refused-by-hook") -> None:
        super().__init__(message, hint, message_id)


def failure_from(data: Any) -> CheckpointFailed:
    """Return the exception that the agent's JSON error object describes."""
    error = data.get("error", data) if isinstance(data, dict) else {}
    if not isinstance(error, dict):
        error = {"message": str(error)}
    message = str(error.get("message") or "The checkpoint failed.")
    hint = str(error.get("hint") or "")
    if error.get("log"):
        hint = f"{hint} The log is {error['log']}.".strip()
    if error.get("id") == "refused-by-hook":
        return CheckpointRefused(message, hint)
    return CheckpointFailed(message, hint, str(error.get("id") or "checkpoint-error"))


def is_refusal(error: BaseException) -> bool:
    """Tell whether a hook's exception means *refused*.

    By name, since the hook may know the class from the installed package while
    this code was loaded from another copy.
    """
    return any(cls.__name__ == "CheckpointRefused" for cls in type(error).__mro__)


def one_line(error: BaseException) -> str:
    """Return an exception as one line of text."""
    return " ".join(f"{type(error).__name__}: {error}".split())
