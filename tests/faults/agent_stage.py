"""Cases in which the agent of a shown kernel ends, or saves for want of memory."""

from __future__ import annotations

import os
import signal

from jupyter_harness import Server, wait_until

from .matrix import Case
from .outcome import Outcome
from .server_stage import END_S, POLICY, Act, ServerStage
from .session import Session

SHORT = "--CheckpointApp.save_below_memory=100%"
"""Memory runs short, always."""


class AgentStage(ServerStage):
    """Whatever becomes of the agent, the server has the kernel and a next one goes on."""

    def acts(self) -> dict[str, Act]:
        return {"watch": self._watch, "pressure": self._pressure}

    def _watch(self, case: Case, server: Server, session: Session, token: int,
               outcome: Outcome) -> None:
        """The agent is killed; the server meets the fault once it has begun another."""
        self._arm(case)
        self._kill_agent(session)
        self._wait_for_fault(lambda: server.process.poll() is not None, outcome)
        if case.waits:
            self._stand_still(case, session, {token}, outcome)
        if case.act == "kill" and outcome.fired:
            server.process.wait(END_S)
            self._server = Server(self._home, POLICY)
        self._plan.disarm()
        wait_until(lambda: session.has_agent(), END_S, "the kernel has an agent")
        self._examine(session, {token}, outcome)

    def _pressure(self, case: Case, server: Server, session: Session, token: int,
                  outcome: Outcome) -> None:
        """An agent meets the fault while it saves for want of memory, which none other may."""
        self._begin_again(server, session, SHORT)
        assert self._server is not None
        schedule = f"/api/ckpt/kernels/{session.kernel_id}/schedule"
        self._arm(case)
        self._server.ok("PUT", schedule, {"every": "1h"})
        self._wait_for_fault(lambda: False, outcome)
        if case.waits:
            self._stand_still(case, session, {token}, outcome)
        self._plan.disarm()
        # The lock is free again: whoever has the kernel now can save it, or has saved it.
        wait_until(lambda: [one for one in self._place.store.manifests()
                            if one.purpose == "pressure"], END_S, "it is saved")
        self._server.ok("PUT", schedule, {"every": None})
        self._begin_again(self._server, session)
        self._examine(session, {token}, outcome)

    def _begin_again(self, server: Server, session: Session, *options: str) -> None:
        """Put another server and another agent in the place of these."""
        server.kill()
        self._kill_agent(session)
        self._server = Server(self._home, POLICY, *options)
        wait_until(lambda: session.has_agent(), END_S, "the kernel has an agent")

    def _kill_agent(self, session: Session) -> None:
        agent = session.record.agent
        assert agent is not None
        os.kill(agent.pid, signal.SIGKILL)
