"""Waiting on the main thread for a checkpoint that the agent makes."""

from __future__ import annotations

import threading
from typing import Any

from .agentclient import GONE, AgentClient
from .checkpoint import Checkpoint
from .failures import CheckpointFailed, failure_from
from .mainthread import Act

POLL_EVERY_S = 2.0
GONE_AFTER = 4
"""Questions without an answer, after which nobody is expected to come any more."""
FORGOTTEN = "job-not-found"


class Waiter:
    """One caller of `checkpoint()`: woken by ``finished`` or ``restored``."""

    def __init__(self, request_id: str, body: dict[str, Any]) -> None:
        self.request_id, self.body = request_id, body
        self._changed = threading.Condition()
        self._acts: list[Act] = []
        self._outcome: Checkpoint | CheckpointFailed | None = None

    def accept(self, act: Act) -> None:
        """Run `act` on the thread that waits here."""
        with self._changed:
            self._acts.append(act)
            self._changed.notify_all()

    def settle(self, outcome: Checkpoint | CheckpointFailed) -> None:
        """Wake the caller with its checkpoint or with what went wrong; the first counts."""
        with self._changed:
            self._outcome = self._outcome or outcome
            self._changed.notify_all()

    def finish(self, result: Any, error: Any) -> None:
        """Settle with a manifest or an error object of the agent."""
        if error:
            self.settle(failure_from(error))
        elif isinstance(result, dict):
            self.settle(Checkpoint(result))
        else:
            self.settle(CheckpointFailed("The agent finished without a checkpoint."))

    def wait(self, agent: AgentClient) -> Checkpoint:
        """Return the checkpoint; raise what went wrong; Ctrl-C ends the wait.

        The agent wakes us; in case it died, it is asked every two seconds too,
        but never while a checkpoint is being made. The agent that comes after it
        gets the same request: it carries it out, or finds what the first one made.
        """
        unanswered = 0
        while True:
            with self._changed:
                ready = self._changed.wait_for(
                    lambda: self._acts or self._outcome, POLL_EVERY_S)
                acts, self._acts = self._acts, []
                outcome = self._outcome
            for act in acts:
                act.run()
            if isinstance(outcome, CheckpointFailed):
                raise outcome
            if outcome is not None:
                return outcome
            if not ready:
                unanswered = self._poll(agent, unanswered)

    def _poll(self, agent: AgentClient, unanswered: int) -> int:
        try:
            job = agent.job(self.request_id)
        except CheckpointFailed as error:
            if error.message_id == "busy":
                return 0
            if error.message_id in (GONE, FORGOTTEN) and unanswered + 1 < GONE_AFTER:
                return self._ask_again(agent, unanswered + 1)
            self.settle(error)
            return 0
        if job.get("state") in ("done", "failed"):
            self.finish(job.get("result"), job.get("error"))
        return 0

    def _ask_again(self, agent: AgentClient, unanswered: int) -> int:
        """Put the request once more; count how often nobody answered in a row."""
        try:
            agent.request_checkpoint(self.request_id, self.body)
        except CheckpointFailed as error:
            if error.message_id in (GONE, "busy"):
                return unanswered
            self.settle(error)
        return 0
