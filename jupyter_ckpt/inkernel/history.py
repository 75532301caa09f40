"""IPython's history database around a checkpoint.

The database is shared by all kernels and by every process that comes out of one
checkpoint. Nothing is written to it between the quiesce and the moment this
process knows whether it was restored; a restored one then goes on under a new
session number, or its lines would collide with those of its original
(``Session/line number was not unique in database``).
"""

from __future__ import annotations

import os
import threading
from contextlib import closing
from typing import Any

OPEN, HELD, RENEW = "open", "held", "renew"
WAIT_S = 1.0


class History:
    """A gate in front of the history manager's `writeout_cache`."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._pid = os.getpid()
        self._write = manager.writeout_cache
        self._gate = threading.RLock()
        self._state = OPEN
        manager.writeout_cache = self._writeout_cache

    def _writeout_cache(self, conn: Any = None) -> None:
        if os.getpid() != self._pid:  # a forked child: the gate's lock may be lost
            self._write() if conn is None else self._write(conn)
            return
        with self._gate:
            if self._state == RENEW:
                self._try_to_renew(conn or self._manager.db)
            if self._state == OPEN:
                self._write() if conn is None else self._write(conn)

    def hold(self) -> None:
        """Write what is cached; keep everything after that in memory.

        A database that is locked by others for more than a second keeps its
        lines in memory too: none is lost.
        """
        with self._gate:
            self._state = HELD
            self._write_with_own_connection(renew=False)

    def release(self) -> None:
        """The process goes on as before: write what has come up since `hold`."""
        with self._gate:
            if self._state == HELD:
                self._state = OPEN
                self._write_with_own_connection(renew=False)

    def renew(self) -> None:
        """The process was restored: go on under a new session number.

        If the database is locked now, it happens before the next write.
        """
        with self._gate:
            self._state = RENEW
            self._write_with_own_connection(renew=True)

    def _try_to_renew(self, conn: Any) -> None:
        import sqlite3

        try:
            self._renew(conn)
        except sqlite3.OperationalError:
            return  # still locked by others: the lines wait in memory

    def _renew(self, conn: Any) -> None:
        with self._manager.db_input_cache_lock:
            self._manager.new_session(conn)
        self._state = OPEN

    def _write_with_own_connection(self, renew: bool) -> None:
        # Of its own: the manager's belong to the main thread and its writer.
        manager = self._manager
        if not manager.enabled or str(manager.hist_file) == ":memory:":
            self._state = self._state if self._state == HELD else OPEN
            return
        if not renew and not manager.db_input_cache and not manager.db_output_cache:
            return
        import sqlite3

        try:
            with closing(sqlite3.connect(str(manager.hist_file), timeout=WAIT_S)) as conn:
                conn.execute("BEGIN IMMEDIATE")  # locked: found out before the cache is emptied
                if renew:
                    self._renew(conn)
                    conn.execute("BEGIN IMMEDIATE")
                self._write(conn)
        except sqlite3.OperationalError:
            return  # locked: the next write does it
