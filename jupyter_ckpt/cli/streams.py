"""Standard output and standard error, in whatever state they were handed over.

A shell can close them (``>&-``), and a disk or a device behind them can refuse
what is written. What a command did stays done then, so neither stops it: it
goes on, and tells at its end that its answer was lost.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_STANDARD = (0, 1, 2)


class _Stubborn(io.FileIO):
    """A descriptor of which a refused write is remembered, and raised by nobody.

    Except for a pipe of standard output that nobody reads any more: `BrokenPipeError`
    ends the command at once.
    """

    lost: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                if isinstance(error, BrokenPipeError) and self.fileno() == 1:
                    raise
                self.lost = error
        return memoryview(data).nbytes


def take_streams() -> None:
    """Open those of the three that are closed, and let the others print whatever comes.

    Streams that somebody put in their place, as tests do, stay what they are.
    """
    for number in _STANDARD:
        _open_closed(number)
    sys.stdout, sys.stderr = _taken(sys.stdout, 1), _taken(sys.stderr, 2)


def lost_output() -> OSError | None:
    """Write what is left of standard output; return why some of the answer is lost, or None.

    Raises `BrokenPipeError` when the reader has left.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Stubborn) else None


def _open_closed(number: int) -> None:
    """Keep the number of a closed stream from going to the next file that is opened."""
    try:
        os.fstat(number)
    except OSError as error:
        if error.errno == errno.EBADF and os.open(os.devnull, os.O_RDWR) == number:
            os.set_inheritable(number, True)


def _number_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:  # it writes into memory, say
        return None


def _taken(stream: TextIO | None, number: int) -> TextIO:
    if stream is not None:
        if type(stream) is not io.TextIOWrapper or _number_of(stream) != number:
            return stream
        stream.flush()
    encoding = stream.encoding if stream is not None else "utf-8"
    # File names need not be text: what cannot be printed is shown as an escape.
    return io.TextIOWrapper(
        io.BufferedWriter(_Stubborn(number, "w", closefd=False)), encoding=encoding,
        errors="backslashreplace", line_buffering=number == 2 or os.isatty(number))
