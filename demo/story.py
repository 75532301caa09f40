"""The main job, step by step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .evidence import BEATS, HEARTBEAT, IDENTITY, QUESTIONS, Evidence
from .home import NOTEBOOK, Home
from .page import Page
from .processes import kill_all, trees
from .reference import Reference
from .server import DemoFailed, Server, wait_for

SAVE_AFTER_STEP = 16
RUN_ON_STEPS = 8
SAVE_DEADLINE_S = 90.0
RESTORERS = ("rest", "cli")

Tell = Callable[[str], None]


class Story:
    """One telling. `tell` gets one line for each thing that has happened."""

    def __init__(self, home: Home, tell: Tell, restore_by: str = "rest") -> None:
        self.home, self.tell = home, tell
        self.evidence = Evidence(restored_by=restore_by)

    def run(self) -> Evidence:
        """Do it all and return what was seen; raise `DemoFailed` when it cannot go on."""
        began = time.monotonic()
        reference = Reference(self.home.reference_work / NOTEBOOK.name, self.home.env, QUESTIONS)
        server = self._serve()
        page = Page(server, NOTEBOOK.name)
        reference.start()
        self._work(server, page)
        self._save(server, page)
        self._lose(server, page)
        server = self._serve()
        self._restore(server, page)
        self._finish(server, page)
        self._compare(reference)
        self.evidence.total_s = time.monotonic() - began
        return self.evidence

    def _serve(self) -> Server:
        server = Server(self.home)
        self.tell(f"A Jupyter server runs (process {server.process.pid}, "
                  f"ready after {server.ready_after_s:.1f} s)")
        return server

    def _work(self, server: Server, page: Page) -> None:
        *first, last = page.code_cells
        for position in first:
            page.run(position)
        self.evidence.identity_before = json.loads(page.ask(IDENTITY, silent=True).text)
        self.evidence.beats_before = int(page.ask(BEATS, silent=True).text)
        running = page.start(last)
        page.wait_until_shown(running, f"step {SAVE_AFTER_STEP:2} of")
        page.save_document(server)
        self.tell(f"{NOTEBOOK.name} has run up to step {_step(running.text)} of its last cell")

    def _save(self, server: Server, page: Page) -> None:
        e = self.evidence
        e.saved_step = _step(self._last_run(page).text)
        job = server.ask("POST", f"/api/ckpt/kernels/{page.kernel_id}/checkpoints",
                         {"note": "saved by the demo while the last cell ran"})

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = server.ask("GET", f"/api/ckpt/jobs/{job['id']}")
            return found if found["state"] in ("done", "failed") else None

        done = wait_for(ended, SAVE_DEADLINE_S, "the checkpoint is saved")
        if done["state"] == "failed":
            raise DemoFailed(f"The checkpoint failed: {done['error']['message']} "
                             f"{done['error'].get('hint') or ''}")
        e.manifest = done["result"]
        e.mode = e.manifest["mode"]
        self.tell(f"Checkpoint {e.manifest['id'][:8]} is saved; the cell stood still for "
                  f"{e.manifest['pause_s']:.2f} s and runs on")

    def _lose(self, server: Server, page: Page) -> None:
        e = self.evidence
        running = self._last_run(page)
        page.wait_until_shown(running, f"step {e.saved_step + RUN_ON_STEPS:2} of")
        page.save_document(server)
        victims = server.processes()
        for record in self.home.records():
            named = (record.init, record.root, record.kernel, record.agent)
            victims |= trees(identity.pid for identity in named if identity is not None)
        e.killed_step, e.killed = _step(running.text), len(victims)
        e.survivors = len(kill_all(victims))
        server.process.wait()
        self.tell(f"kill -9: server, agent and the kernel's whole tree are gone "
                  f"({e.killed} processes), at step {e.killed_step}")

    def _restore(self, server: Server, page: Page) -> None:
        e = self.evidence
        began = time.monotonic()
        how = self._by_cli if e.restored_by == "cli" else self._by_rest
        answer = how(server, e.manifest["id"])
        e.restore_s = time.monotonic() - began
        e.warnings = answer["warnings"]
        e.same_kernel_id = answer["kernel_id"] == page.kernel_id
        page.attach(server, answer["kernel_id"])
        e.first_answer_s = time.monotonic() - began
        step = _step(self._last_run(page).text)
        self.tell(f"Restored after {e.restore_s:.1f} s: the cell is running again, at step {step}")

    @staticmethod
    def _by_rest(server: Server, checkpoint_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = server.ask(
            "POST", f"/api/ckpt/checkpoints/{checkpoint_id}/restore", {"mode": "in-place"})
        return answer

    def _by_cli(self, server: Server, checkpoint_id: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "jupyter_ckpt.cli.main", "restore", checkpoint_id,
             "--in-place", "--json"],
            env=self.home.env, cwd=self.home.work, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DemoFailed(f"jupyter ckpt restore failed: {done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.loads(done.stdout)
        if not answer["server_url"]:
            raise DemoFailed("jupyter ckpt restore did not find the running server.")
        return answer

    def _finish(self, server: Server, page: Page) -> None:
        e = self.evidence
        running = self._last_run(page)
        page.finish(running)
        e.heartbeat = json.loads(page.ask(HEARTBEAT, silent=True).text)
        e.identity_after = json.loads(page.ask(IDENTITY, silent=True).text)
        e.result = running.result
        self.tell("The cell has finished by itself")
        page.save_document(server)
        saved = server.ask("GET", f"/api/contents/{page.path}")["content"]
        cells = [saved["cells"][position] for position in page.code_cells]
        e.cells = [cell["outputs"] for cell in cells]
        e.counts = [cell["execution_count"] for cell in cells]
        for name, code in QUESTIONS.items():
            answer = page.ask(code)
            e.answers[name] = answer.result
            e.counts.append(answer.count)

    def _compare(self, reference: Reference) -> None:
        reference.await_end()
        e = self.evidence
        e.expected_cells, e.expected_answers = reference.outputs, reference.answers
        results = [output["data"]["text/plain"] for output in reference.outputs[-1]
                   if output["output_type"] == "execute_result"]
        e.expected_result = results[-1] if results else None

    @staticmethod
    def _last_run(page: Page) -> Any:
        return page.runs[page.code_cells[-1]]


def _step(text: str) -> int:
    """Return the last step that the running cell has told of."""
    steps = re.findall(r"step +(\d+) of", text)
    return int(steps[-1]) if steps else 0
