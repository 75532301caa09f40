"""The acts that faults strike: what is asked, what is promised, what a retry asks."""

from __future__ import annotations

import os
import signal
import time
import uuid
from typing import Any

from fault_plan import FaultPlan

from jupyter_ckpt import kernels
from jupyter_ckpt.errors import CheckpointError

from . import acts
from .inspection import backups
from .matrix import Case
from .session import Session

Call = tuple[str, dict[str, Any]]
END_DEADLINE_S = 15.0
REPLACED_FROM = ("restore.stopped", "restore.boxed", "restore.files-back", "restore.edited",
                 "restore.running", "restore.told", "restore.recorded")


class Operation:
    """One act on `session`, tried twice at most."""

    ends_session = False

    def __init__(self, session: Session, plan: FaultPlan, base: str) -> None:
        self.session, self.plan, self.base = session, plan, base
        self.place = session.place
        self.token = session.mark()
        self.tokens = {self.token}
        """The states that the session may be in afterwards."""
        self.promised: set[str] = set()
        """Checkpoints that an answer named."""
        self.failures = 0
        self.told: list[str] | None = None
        """What was said of files; None where nobody listens."""
        self._backups = backups(self.place)

    def call(self) -> Call:
        """Return what is asked now; a second call is the retry."""
        raise NotImplementedError

    def answered(self, answer: dict[str, Any]) -> None:
        """Note what an answer promises."""

    def failed(self, message: str) -> None:
        """Note what was told in place of an answer."""

    def unspoken(self) -> list[str]:
        """Return the files of the user that were set aside without a word in any answer."""
        if self.told is None:
            return []
        return [one for one in backups(self.place) - self._backups
                if not any(one in text for text in self.told)]

    def attempt(self) -> None:
        """Ask in this process. Raises `CheckpointError`."""
        name, arguments = self.call()
        self.answered(acts.ACTS[name](self.place.locations, **arguments))

    def kernel_stays(self, case: Case) -> bool:
        """Tell whether the session runs while somebody stands still at the case's step."""
        return True


class Save(Operation):
    def call(self) -> Call:
        return "save", {"kernel_id": self.session.kernel_id, "note": "a case"}

    def answered(self, answer: dict[str, Any]) -> None:
        self.promised.add(answer["id"])


class BesideIt(Operation):
    """Makes another kernel. A file that grows meanwhile cannot be had by both."""

    def __init__(self, session: Session, plan: FaultPlan, base: str) -> None:
        super().__init__(session, plan, base)
        session.stop_writing()


class RestoreNew(BesideIt):
    def call(self) -> Call:
        return "restore", {"checkpoint": self.base, "kernel_id": str(uuid.uuid4()),
                           "in_place": False}


class RestoreInPlace(Operation):
    def __init__(self, session: Session, plan: FaultPlan, base: str) -> None:
        super().__init__(session, plan, base)
        self.saved = acts.save(self.place.locations, session.kernel_id, "before")["id"]
        self.later = session.mark()
        self.tokens = {self.token, self.later}

    def call(self) -> Call:
        return "restore", {"checkpoint": self.saved, "kernel_id": self.session.kernel_id,
                           "in_place": True}  # it may be on its way back when this is asked

    def answered(self, answer: dict[str, Any]) -> None:
        self.tokens = {self.token}
        self.told = [*(self.told or ()), *answer["warnings"]]
        if answer.get("saved_before"):
            self.promised.add(answer["saved_before"])

    def failed(self, message: str) -> None:
        self.told = [*(self.told or ()), message]

    def kernel_stays(self, case: Case) -> bool:
        return case.point not in REPLACED_FROM and case.who != "restore"


class Launch(Operation):
    def call(self) -> Call:
        return "launch", {"kernel_id": str(uuid.uuid4()), "cwd": str(self.place.work),
                          "env": self.place.kernel_environment()}


class TakeOver(Operation):
    """An agent died before; the next one suffers."""

    def __init__(self, session: Session, plan: FaultPlan, base: str) -> None:
        super().__init__(session, plan, base)
        kill_agent(session)

    def call(self) -> Call:
        return "take_over", {"kernel_id": self.session.kernel_id}


class Recover(RestoreInPlace):
    """An agent died after it had stopped a kernel; who brings it back suffers."""

    def __init__(self, session: Session, plan: FaultPlan, base: str) -> None:
        super().__init__(session, plan, base)
        before = {one.id for one in self.place.store.manifests()}
        plan.arm({"point": "restore.stopped", "act": "kill", "program": "kernel_agent"})
        said = "it was done"
        try:
            self._ask_agent()
        except CheckpointError as error:
            said = error.message
        if not plan.fired():
            raise AssertionError(f"the agent did not die when it had stopped the kernel: {said}")
        plan.disarm()
        self.tokens = {self.later}
        self.safety = {one.id for one in self.place.store.manifests()} - before
        self._asked = False

    def _ask_agent(self) -> None:
        """Ask the agent itself: another client would start the next one when it dies."""
        locations = self.place.locations
        kernels.AgentClient(locations.folder(self.session.kernel_id)).act("restores", {
            "checkpoint": self.saved, "store": str(locations.store_dir)})

    def call(self) -> Call:
        if not self._asked:
            self._asked = True
            return "look", {}
        # Not brought back: its state lies in the store, and is restored by hand.
        (safety,) = self.safety
        return "restore", {"checkpoint": safety, "kernel_id": self.session.kernel_id,
                           "in_place": False}

    def failed(self, message: str) -> None:
        """Whoever only looks is not told of files; it is in the record."""

    def answered(self, answer: dict[str, Any]) -> None:
        if not self.session.is_alive():
            raise CheckpointError("The session was not brought back.")

    def kernel_stays(self, case: Case) -> bool:
        return False


class Fork(BesideIt):
    def call(self) -> Call:
        return "fork", {"kernel_id": self.session.kernel_id}


class End(Operation):
    """The kernel ends by itself, and its agent buries it."""

    ends_session = True

    def attempt(self) -> None:
        record = self.session.record
        assert record.kernel is not None and record.agent is not None
        os.kill(record.kernel.pid, signal.SIGKILL)
        deadline = time.monotonic() + END_DEADLINE_S
        while record.agent.is_alive():
            if time.monotonic() > deadline:
                raise CheckpointError("The agent did not end with its kernel.")
            time.sleep(0.01)

    def kernel_stays(self, case: Case) -> bool:
        return False


OPERATIONS: dict[str, type[Operation]] = {
    "save": Save, "restore-new": RestoreNew, "restore-in-place": RestoreInPlace,
    "launch": Launch, "take-over": TakeOver, "recover": Recover, "fork": Fork, "end": End}


def kill_agent(session: Session) -> None:
    agent = session.record.agent
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)
    while agent.is_alive():
        time.sleep(0.002)
