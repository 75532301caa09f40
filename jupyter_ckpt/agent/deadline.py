"""Reading a request within one deadline, however slowly its bytes come."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RequestTooSlow

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class TimedStream(io.RawIOBase):
    """What a connection sends; raises `RequestTooSlow` when `deadline_s` have passed.

    Also at its end, if `is_dropped` tells that it was cut short for others.
    """

    def __init__(self, connection: socket.socket, deadline_s: float,
                 is_dropped: Callable[[], bool] = lambda: False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._connection, self._deadline_s, self._clock = connection, deadline_s, clock
        self._is_dropped = is_dropped
        self._end = clock() + deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        left_s = self._end - self._clock()
        try:
            if left_s <= 0:
                raise TimeoutError
            self._connection.settimeout(left_s)
            count = self._connection.recv_into(buffer)
        except TimeoutError:
            raise RequestTooSlow(
                f"The request did not come in full within {self._deadline_s:g} s.") from None
        finally:
            self._connection.settimeout(self._deadline_s)  # for the answer
        if not count and self._is_dropped():
            raise RequestTooSlow("The request did not come in full while others were waiting.")
        return count
