"""Cases with Jupyter servers: one dies while it adopts, swaps or departs; the next goes on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from fault_plan import FaultPlan
from jupyter_harness import Home, Server

from .inspection import end_everything, frozen, leftovers, let_stopped_go_on, settled, strays
from .matrix import Case
from .outcome import Outcome
from .place import Place
from .session import Session

POLICY = "--CheckpointApp.on_shutdown=save-and-stop"
NOTEBOOK = "a.ipynb"
FIRE_S = 40.0
END_S = 60.0
Act = Callable[[Case, Server, Session, int, Outcome], None]


class ServerStage:
    """One place, one notebook with a session, and the server that shows it."""

    def __init__(self, folder: Path, mode: str, plan: FaultPlan) -> None:
        self._place = Place(folder / type(self).__name__, mode)
        self._home = Home(self._place.folder)
        self._home.write_notebook(NOTEBOOK, "x = 1")
        self._plan = plan
        self._server: Server | None = None
        self._session: Session | None = None

    def run(self, case: Case) -> Outcome:
        outcome = Outcome(case.id)
        try:
            server, session = self._showing()
            token = session.mark()
            self.acts()[case.operation](case, server, session, token, outcome)
        except Exception:
            self._start_over()
            raise
        finally:
            self._plan.disarm()
        if outcome.broken or self._session is None:
            self._start_over()
        return outcome

    def acts(self) -> dict[str, Act]:
        """Return what is done, by the operation of a case."""
        return {"adopt": self._adopt, "swap": self._swap, "depart": self._depart}

    def close(self) -> None:
        self._start_over()
        shutil.rmtree(self._place.folder, ignore_errors=True)

    def _showing(self) -> tuple[Server, Session]:
        if self._server is None:
            self._server = Server(self._home, POLICY)
        if self._session is None:
            kernel_id = self._server.open_session(NOTEBOOK)["kernel"]["id"]
            self._server.connect(kernel_id).run("x = 1")
            self._session = Session(self._place, kernel_id)
        self._session.begin_journal()
        return self._server, self._session

    def _start_over(self) -> None:
        if self._session is not None:
            self._session.close()
        self._server = self._session = None
        end_everything(self._place)
        for name in ("runtime", "data"):
            shutil.rmtree(self._place.folder / name, ignore_errors=True)
            (self._place.folder / name).mkdir(mode=0o700)
        self._place.reopen_store()

    # -- the three acts -------------------------------------------------------------------

    def _adopt(self, case: Case, server: Server, session: Session, token: int,
               outcome: Outcome) -> None:
        """The server is killed; the next one meets the fault while it adopts."""
        server.kill()
        self._arm(case)
        starting = Starting(self._home)
        self._wait_for_fault(starting.ended, outcome)
        if case.waits:
            self._stand_still(case, session, {token}, outcome)
        starting.join()
        self._plan.disarm()
        outcome.first = "done" if starting.server else "the server ended"
        next_server = starting.server
        if next_server is not None and not shows(next_server, session.kernel_id):
            outcome.first = "not adopted"
            next_server.kill()
            next_server = None
        self._server = next_server or Server(self._home, POLICY)
        self._examine(session, {token}, outcome)

    def _swap(self, case: Case, server: Server, session: Session, token: int,
              outcome: Outcome) -> None:
        """The server meets the fault while it restores in place."""
        saved = server.save(session.kernel_id)["result"]["id"]
        later = session.mark()
        self._arm(case)
        asking = _Asking(server, saved, session.kernel_id)
        self._wait_for_fault(asking.ended, outcome)
        if case.waits:
            self._stand_still(case, session, {token, later}, outcome)
        asking.join()
        self._plan.disarm()
        outcome.first = asking.said
        if (case.act, case.who) == ("kill", "server") and outcome.fired:
            server.process.wait(END_S)
        if server.process.poll() is not None:
            self._server = server = Server(self._home, POLICY)
        if asking.said != "done":
            if not shows(server, session.kernel_id):
                outcome.broken.append("the kernel is not shown")
            wrong = session.complaints({token, later})
            outcome.broken += [f"after the fault: {one}" for one in wrong]
            again = _Asking(server, saved, session.kernel_id)
            again.join()
            if again.said != "done":
                outcome.broken.append(f"the second try failed: {again.said}")
        self._examine(session, {token}, outcome)

    def _depart(self, case: Case, server: Server, session: Session, token: int,
                outcome: Outcome) -> None:
        """The server is ended with save-and-stop, and meets the fault on its way."""
        self._arm(case)
        server.process.send_signal(signal.SIGTERM)
        self._wait_for_fault(lambda: server.process.poll() is not None, outcome)
        if case.waits:
            self._stand_still(case, None, set(), outcome)
        try:
            server.process.wait(END_S)
            outcome.first = f"exit {server.process.returncode}"
        except subprocess.TimeoutExpired:
            outcome.broken.append("the server does not end")
            server.kill()
        self._plan.disarm()
        self._server = Server(self._home, POLICY)
        if not shows(self._server, session.kernel_id):
            session = self._brought_back(session, token, outcome)
        self._examine(session, {token}, outcome)

    def _brought_back(self, session: Session, token: int, outcome: Outcome) -> Session:
        """The kernel was ended: what it was lies in the store, and is restored."""
        assert self._server is not None
        session.close()
        self._session = None
        found = self._server.ok("GET", f"/api/ckpt/checkpoints?kernel_id={session.kernel_id}")
        shutdown = [one["id"] for one in found if one["trigger"] == "shutdown"]
        if not shutdown:
            outcome.kernel_lost = True
            outcome.broken.append("the kernel was ended without a checkpoint")
        back = self._server.ok("POST", f"/api/ckpt/checkpoints/{(shutdown or [''])[0]}/restore",
                               {"mode": "in-place"})
        self._session = Session(self._place, back["kernel_id"])
        return self._session

    # -- the fault ------------------------------------------------------------------------

    def _arm(self, case: Case) -> None:
        program = "kernel_agent" if case.who == "agent" else "jupyter_server"
        self._plan.arm({"point": case.point, "nth": case.nth, "act": case.act, "program": program})

    def _wait_for_fault(self, ended: Any, outcome: Outcome) -> None:
        deadline = time.monotonic() + FIRE_S
        while not self._plan.fired() and not ended() and time.monotonic() < deadline:
            time.sleep(0.01)
        outcome.fired = self._plan.fired()

    def _stand_still(self, case: Case, session: Session | None, tokens: set[int],
                     outcome: Outcome) -> None:
        if session is not None and not (case.operation == "swap" and case.who == "agent"):
            outcome.broken += [f"while the {case.who} stands still: {one}"
                               for one in session.complaints(tokens)]
        self._plan.disarm()
        let_stopped_go_on(self._place)

    # -- afterwards -----------------------------------------------------------------------

    def _examine(self, session: Session, tokens: set[int], outcome: Outcome) -> None:
        place, server = self._place, self._server
        assert server is not None
        if not shows(server, session.kernel_id):
            outcome.kernel_lost = not session.is_alive()
            outcome.broken.append("the kernel is not shown by the next server")
            return
        paths = [one["path"] for one in server.ok("GET", "/api/sessions")]
        if paths != [NOTEBOOK]:
            outcome.broken.append(f"the sessions shown are {paths}")
        outcome.broken += session.complaints(tokens)
        if server.connect(session.kernel_id).run("print(token)") not in map(str, tokens):
            outcome.broken.append("the websocket leads to another state")
        if still := settled(lambda: frozen(place)):
            outcome.left_frozen = True
            outcome.broken.append(f"left frozen: {still}")
        bad = place.store.verify()["bad"] + place.store.problems()
        outcome.half_visible += len(bad)
        outcome.broken += [f"half visible: {one}" for one in bad]
        self._go_on(server, session, outcome)
        place.store.collect()
        if left := settled(lambda: leftovers(place, "tmp", "work")):
            outcome.broken.append(f"left in the store: {left}")
        expected = str(server.process.pid)
        if left := settled(lambda: [one for one in strays(place)
                                    if one.split()[0] != expected]):
            outcome.broken.append(f"stray processes: {left}")

    def _go_on(self, server: Server, session: Session, outcome: Outcome) -> None:
        """Save and restore once more, through the server; then remove the checkpoints."""
        session.stop_writing()
        job = server.save(session.kernel_id)
        if job["state"] != "done":
            outcome.broken.append(f"the next save failed: {job['error']}")
            return
        made = server.request("POST", f"/api/ckpt/checkpoints/{job['result']['id']}/restore",
                              {"mode": "new"})
        if not made.ok:
            outcome.broken.append(f"the next restore failed: {made.text[:300]}")
            return
        copy = made.json()
        other = Session(self._place, copy["kernel_id"])
        if not other.state()["advanced"]:
            outcome.broken.append("the restored copy stands still")
        other.talker.close()
        if copy["session"]:
            server.ok("DELETE", f"/api/sessions/{copy['session']['id']}")
        else:
            server.ok("DELETE", f"/api/kernels/{copy['kernel_id']}")
        for path in self._home.notebooks.glob("*.ipynb"):
            if path.name != NOTEBOOK:
                path.unlink()
        for one in self._place.store.manifests():
            self._place.store.remove(one.id)


class Starting:
    """A server that starts while others look on; `server` is None when it did not."""

    def __init__(self, home: Home) -> None:
        self.server: Server | None = None
        self._thread = threading.Thread(target=self._run, args=(home,), daemon=True)
        self._thread.start()

    def _run(self, home: Home) -> None:
        with contextlib.suppress(AssertionError):
            self.server = Server(home, POLICY)

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(90)


class _Asking:
    """A restore in place that is asked for while others look on."""

    def __init__(self, server: Server, checkpoint: str, kernel_id: str) -> None:
        self.said = "no end"
        self._thread = threading.Thread(target=self._run, args=(server, checkpoint, kernel_id),
                                        daemon=True)
        self._thread.start()

    def _run(self, server: Server, checkpoint: str, kernel_id: str) -> None:
        try:
            answer = server.request("POST", f"/api/ckpt/checkpoints/{checkpoint}/restore",
                                    {"mode": "in-place", "kernel_id": kernel_id})
            self.said = "done" if answer.ok else answer.text[:300]
        except requests.RequestException as error:
            self.said = f"the server is gone ({type(error).__name__})"

    def ended(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(90)


def shows(server: Server, kernel_id: str) -> bool:
    return kernel_id in [one["id"] for one in server.ok("GET", "/api/kernels")]

