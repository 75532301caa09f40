"""Cases in which a session ends and comes back: culled, parked, crashed, all killed at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import requests
from jupyter_harness import Server, wait_until

from .inspection import living, settled
from .matrix import Case
from .outcome import Outcome
from .server_stage import END_S, NOTEBOOK, POLICY, Act, ServerStage, Starting, shows
from .session import Session

CULL = ("--MappingKernelManager.cull_idle_timeout=5", "--MappingKernelManager.cull_interval=1")
RESTORE = "--CheckpointApp.on_crash=restore"


class ReturnStage(ServerStage):
    """Afterwards somebody opens the notebook: the session is there, and there once."""

    def acts(self) -> dict[str, Act]:
        return {"cull": self._cull, "revive": self._revive, "crash": self._crash,
                "sweep": self._sweep}

    def _cull(self, case: Case, server: Server, session: Session, token: int,
              outcome: Outcome) -> None:
        """A server meets the fault while it culls the kernel."""
        server.kill()
        self._arm(case)
        self._server = culling = Server(self._home, POLICY, *CULL)
        self._suffer(case, culling, lambda: False, outcome)
        if culling.process.poll() is None:
            wait_until(lambda: not shows(culling, session.kernel_id), END_S, "it is culled")
            culling.kill()
        self._come_back(token, outcome)

    def _revive(self, case: Case, server: Server, session: Session, token: int,
                outcome: Outcome) -> None:
        """A server meets the fault while it brings back what is parked."""
        server.stop()
        self._server = server = Server(self._home, POLICY)
        self._arm(case)
        opening = threading.Thread(target=_open_and_forget, args=(server,), daemon=True)
        opening.start()
        self._suffer(case, server, lambda: not opening.is_alive(), outcome)
        opening.join(END_S)
        self._come_back(token, outcome)

    def _crash(self, case: Case, server: Server, session: Session, token: int,
               outcome: Outcome) -> None:
        """The kernel crashes; its agent, or the server that restores it, meets the fault."""
        server.kill()
        self._server = server = Server(self._home, POLICY, RESTORE)
        server.save(session.kernel_id)
        kernel = session.record.kernel
        assert kernel is not None
        self._arm(case)
        os.kill(kernel.pid, signal.SIGKILL)
        self._suffer(case, server, lambda: False, outcome)
        if server.process.poll() is None:
            wait_until(lambda: [one for one in living(self._place) if one.kernel != kernel],
                       END_S, "another kernel runs")
        self._come_back(token, outcome)
        self._begin_anew()  # a kernel is brought back only so often

    def _sweep(self, case: Case, server: Server, session: Session, token: int,
               outcome: Outcome) -> None:
        """Everything is killed at once; the next server meets the fault while it clears up."""
        server.save(session.kernel_id)
        record = session.record
        server.kill()
        self._arm(case)
        for one in (record.agent, record.init):
            assert one is not None
            os.kill(one.pid, signal.SIGKILL)
        starting = Starting(self._home)
        self._suffer(case, None, starting.ended, outcome)
        starting.join()
        self._server = starting.server
        self._come_back(token, outcome)
        self._begin_anew()

    def _suffer(self, case: Case, server: Server | None, ended: Callable[[], bool],
                outcome: Outcome) -> None:
        """See the fault through; a server that was to die of it is dead afterwards."""
        self._wait_for_fault(ended, outcome)
        if case.waits:
            self._stand_still(case, None, set(), outcome)
        if server is not None and outcome.fired and (case.act, case.who) == ("kill", "server"):
            server.process.wait(END_S)
        self._plan.disarm()

    def _come_back(self, token: int, outcome: Outcome) -> None:
        """Do what a user does: take the offer if there is one, and open the notebook."""
        if self._server is None or self._server.process.poll() is not None:
            self._server = Server(self._home, POLICY)
        server = self._server
        # One may go by itself just now: its session is being brought back.
        offers = settled(lambda: list(server.ok("GET", "/api/ckpt/offers")))
        outcome.first = f"{len(offers)} offers"
        for offer in offers:
            server.ok("POST", f"/api/ckpt/checkpoints/{offer['checkpoint']}/restore",
                      {"mode": "in-place"})
        if len(offers) > 1 or server.ok("GET", "/api/ckpt/offers"):
            outcome.broken.append(f"offered: {offers}, and again afterwards")
        kernel_id = server.open_session(NOTEBOOK)["kernel"]["id"]
        assert self._session is not None
        journal = self._session.journal
        self._session.talker.close()
        self._session = session = Session(self._place, kernel_id)
        session.journal = journal  # it goes on writing the file that it had open
        if len(living(self._place)) != 1:
            outcome.broken.append(f"{len(living(self._place))} kernels live")
        self._examine(session, {token}, outcome)

    def _begin_anew(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _open_and_forget(server: Server) -> dict[str, Any] | None:
    try:
        return server.open_session(NOTEBOOK)
    except (requests.RequestException, AssertionError):
        return None  # the server died, or said no: the next one is asked
