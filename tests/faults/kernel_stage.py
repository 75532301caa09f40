"""Cases with a kernel: one session suffers case after case, as long as it lives."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from typing import Any

from fault_plan import FaultPlan

from jupyter_ckpt import kernels
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.record import read_record

from . import acts
from .inspection import (
    end_everything,
    frozen,
    half_exchanged,
    leftovers,
    let_stopped_go_on,
    living,
    settled,
    stray_folders,
    strays,
)
from .matrix import Case
from .operations import OPERATIONS, Operation
from .outcome import Outcome
from .place import Place
from .session import Session

ATTEMPT_S = 100.0
FIRE_S = 30.0
WHILE_STILL_S = 30.0
"""In this time a session must go on, whoever stands still: it covers every deadline
that ends in a thaw."""


class KernelStage:
    """One place with one session; a fresh session when a case has ended it."""

    def __init__(self, folder: Any, mode: str, plan: FaultPlan) -> None:
        self._place = Place(folder / "home", mode)
        self._plan = plan
        self._session: Session | None = None
        self._base = ""

    def run(self, case: Case) -> Outcome:
        outcome = Outcome(case.id)
        session = self._living_session()
        try:
            self._play(case, session, outcome)
        except Exception:
            self._start_over()
            raise
        finally:
            self._plan.disarm()
            self._place.end_scene()
        if outcome.broken or not session.is_alive():
            self._start_over()
        return outcome

    def close(self) -> None:
        self._start_over()
        shutil.rmtree(self._place.folder, ignore_errors=True)

    # -- the session ----------------------------------------------------------------

    def _living_session(self) -> Session:
        if self._session is None:
            kernel_id = str(uuid.uuid4())
            acts.launch(self._place.locations, kernel_id, str(self._place.work),
                        self._place.kernel_environment())
            self._session = Session(self._place, kernel_id)
            # What copies are made from writes to no file: it would be this one's.
            self._session.stop_writing()
            self._base_token = self._session.mark()
            self._base = acts.save(self._place.locations, kernel_id, "base")["id"]
        self._session.begin_journal()
        return self._session

    def _start_over(self) -> None:
        """End all processes and empty all folders: what follows shall not suffer from it."""
        if self._session is not None:
            self._session.close()
        self._session = None
        end_everything(self._place)
        shutil.rmtree(self._place.locations.runtime_dir, ignore_errors=True)
        for one in self._place.store.manifests():
            self._place.store.remove(one.id)
        shutil.rmtree(self._place.store.root / "work", ignore_errors=True)
        self._place.store.collect()

    # -- one case ---------------------------------------------------------------------

    def _play(self, case: Case, session: Session, outcome: Outcome) -> None:
        place = self._place
        operation = OPERATIONS[case.operation](session, self._plan, self._base)
        before = {one.id for one in place.store.manifests()}
        client = acts.Client(*operation.call()) if case.who == "client" else None
        self._arm(case, session, client)
        attempt = _Attempt(operation, client)
        if case.waits:
            self._watch(case, operation, attempt, outcome, client)
        if not attempt.ended(ATTEMPT_S):
            outcome.broken.append("the act came to no end")
        outcome.fired = place.scene_played() if case.is_scene else self._plan.fired()
        self._plan.disarm()
        place.end_scene()
        outcome.first = attempt.said
        if not attempt.ended(ATTEMPT_S):
            return
        self._settle(case, operation, attempt, outcome)
        self._examine(case, operation, before, outcome)

    def _arm(self, case: Case, session: Session, client: acts.Client | None) -> None:
        if case.is_scene:
            self._place.stage_scene(case.who, case.step.removeprefix("criu."))
            return
        record = session.record
        assert record.kernel is not None
        fault: dict[str, Any] = {"point": case.point, "nth": case.nth, "act": case.act,
                                 "program": "kernel_agent"}
        victim = {"client": client.pid if client else None, "kernel": record.kernel.pid,
                  "init": record.init.pid if record.init else None, "criu": "criu",
                  "notifier": "ckpt-notify", "entry": "ckpt-box"}.get(case.who)
        self._plan.arm({**fault, **({"victim": victim} if victim else {})})

    def _watch(self, case: Case, operation: Operation, attempt: _Attempt, outcome: Outcome,
               client: acts.Client | None) -> None:
        """See that the session goes on while somebody stands still; then let him go."""
        fired = self._place.scene_played if case.is_scene else self._plan.fired
        deadline = time.monotonic() + FIRE_S
        while not fired() and not attempt.ended(0.01) and time.monotonic() < deadline:
            pass
        if operation.kernel_stays(case):
            wrong = operation.session.complaints(operation.tokens, WHILE_STILL_S)
            outcome.broken += [f"while the {case.who} stands still: {one}" for one in wrong]
            outcome.left_frozen = any("t" in one.rpartition(":")[2].lower() for one in wrong
                                      if "answer" in one)
        self._plan.disarm()
        self._place.end_scene()
        let_stopped_go_on(self._place, *([client.pid] if client else []))

    def _settle(self, case: Case, operation: Operation, attempt: _Attempt, outcome: Outcome
                ) -> None:
        """Do what a user does: look, and try once more what failed."""
        if attempt.failed:
            operation.failures += 1
            acts.look(self._place.locations)
            alive = operation.session.is_alive()
            if operation.ends_session or not (alive or case.operation in (
                    "restore-in-place", "recover")):
                return
            if case.operation == "recover" and alive:
                return
            try:
                operation.attempt()
            except CheckpointError as error:
                operation.failures += 1
                operation.failed(error.message)
                outcome.broken.append(f"the second try failed: {error.message}")

    # -- examining ----------------------------------------------------------------------

    def _examine(self, case: Case, operation: Operation, before: set[str], outcome: Outcome
                 ) -> None:
        place, session = self._place, operation.session
        may_end = case.ends_kernel or operation.ends_session
        if session.is_alive():
            outcome.broken += session.complaints(operation.tokens)
        elif not may_end:
            outcome.kernel_lost = True
            outcome.broken.append("the kernel is lost")
        if still := settled(lambda: frozen(place)):
            outcome.left_frozen = True
            outcome.broken.append(f"left frozen: {still}")
        outcome.broken += self._examine_others(operation)
        if case.who != "client" and (unspoken := operation.unspoken()):
            outcome.broken.append(f"set aside without a word: {unspoken}")
        new = self._examine_store(operation, before, outcome)
        outcome.broken += self._go_on(operation, new)
        acts.look(place.locations)
        if left := settled(lambda: leftovers(place, "tmp", "work")):
            outcome.broken.append(f"left in the store: {left}")
        if left := settled(lambda: half_exchanged(place)):
            outcome.broken.append(f"files half put back: {left}")
        self._dismiss_empty_agents()
        for what, check in (("processes", strays), ("runtime folders", stray_folders)):
            if left := settled(lambda check=check: check(place)):  # type: ignore[misc]
                outcome.broken.append(f"stray {what}: {left}")

    def _examine_others(self, operation: Operation) -> list[str]:
        """Every other kernel that lives must be whole; then it is ended."""
        wrong = []
        for record in living(self._place):
            if record.kernel_id == operation.session.kernel_id:
                continue
            other = Session(self._place, record.kernel_id)
            found = other.state()
            if not found["advanced"] or found["pong"] != "gnip":
                wrong.append(f"another kernel is not whole: {found}")
            other.talker.close()
            with contextlib.suppress(FileNotFoundError):
                other.journal.unlink()
            kernels.stop(self._place.locations,
                         read_record(self._place.locations.folder(record.kernel_id)))
        return wrong

    def _examine_store(self, operation: Operation, before: set[str], outcome: Outcome
                       ) -> list[str]:
        """Return the new checkpoints, newest first, when all is said of them."""
        store = self._place.store
        bad = store.verify()["bad"] + store.problems()
        outcome.half_visible += len(bad)
        outcome.broken += [f"half visible: {one}" for one in bad]
        new = [one.id for one in store.manifests() if one.id not in before]
        if missing := operation.promised - set(new):
            outcome.broken.append(f"promised and not there: {sorted(missing)}")
        if gone := before - {one.id for one in store.manifests()}:
            outcome.broken.append(f"gone: {sorted(gone)}")
        outcome.broken += self._unpromised(operation, set(new) - operation.promised)
        acts.collect(self._place.locations)
        if left := settled(lambda: leftovers(self._place, "tmp", "work")):
            outcome.broken.append(f"gc left {left}")
        return new

    def _unpromised(self, operation: Operation, extra: set[str]) -> list[str]:
        """Complain of checkpoints beyond those that an answer named.

        An act that failed after its commit may leave one. So may each of its tries leave
        the copy it made for safety or for a fork: whole, and never the same for two tries.
        """
        purposes = [self._place.store.resolve(one).purpose for one in extra]
        copies = len([purpose for purpose in purposes if purpose is not None])
        others = len(purposes) - copies
        if others <= operation.failures and copies <= operation.failures + 1:
            return []
        return [f"checkpoints that nobody was promised: {others}, and {copies} copies"]

    def _go_on(self, operation: Operation, new: list[str]) -> list[str]:
        """Save once more, and restore the newest of this case as another kernel."""
        locations, session = self._place.locations, operation.session
        try:
            if session.is_alive():
                later = acts.save(locations, session.kernel_id, "next")["id"]
                new = new or [later]
                session.stop_writing()
            elif session.journal.exists():
                session.journal.unlink()  # or the copy would put it back
            copy = str(uuid.uuid4())
            acts.restore(locations, new[0] if new else self._base, copy, False)
        except CheckpointError as error:
            return [f"what came next failed: {error.message}"]
        wrong = self._examine_others(operation)
        for one in self._place.store.manifests():
            if one.id != self._base:
                self._place.store.remove(one.id)
        self._place.store.collect()
        return wrong

    def _dismiss_empty_agents(self) -> None:
        """Let agents without a kernel end now: they would by themselves, in a minute."""
        for path in self._place.locations.runtime_dir.iterdir():
            if path.is_dir():
                with contextlib.suppress(CheckpointError):
                    kernels.AgentClient(path).request("POST", "/dismiss", timeout_s=5)


class _Attempt:
    """The act in a thread of its own, so that one that hangs is noticed."""

    def __init__(self, operation: Operation, client: acts.Client | None) -> None:
        self.said = "no end"
        self._operation, self._client = operation, client
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        return self.said != "done"

    def _run(self) -> None:
        try:
            if self._client is None:
                self._operation.attempt()
            else:
                self._operation.answered(self._client.go())
            self.said = "done"
        except CheckpointError as error:
            self.said = error.message
            self._operation.failed(error.message)
        except Exception as error:
            self.said = f"unexpected {error!r}"

    def ended(self, timeout_s: float) -> bool:
        """Wait for the end for that long; tell whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()
