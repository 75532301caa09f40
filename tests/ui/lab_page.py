"""A notebook in JupyterLab as a person sees and uses it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jupyter_harness import TOKEN, Server
from playwright.sync_api import Locator, Page, expect

TIMEOUT_MS = 60_000
expect.set_options(timeout=TIMEOUT_MS)
CURRENT = "window.jupyterapp.shell.currentWidget"
CELL = f"""index => {{
  const cell = {CURRENT}.content.widgets[index];
  const outputs = cell.model.outputs.toJSON().map(o => o.text ?? o.data?.['text/plain'] ?? o.ename);
  return {{
    prompt: cell.inputArea.node.querySelector('.jp-InputPrompt').innerText.trim(),
    state: cell.model.executionState,
    source: cell.model.sharedModel.getSource(),
    text: outputs.flat().join(''),
    shown: cell.outputArea.node.innerText
  }};
}}"""
RUN = f"""index => {{
  const panel = {CURRENT};
  panel.content.activeCellIndex = index;
  panel.content.deselectAll();
  void window.jupyterapp.commands.execute('notebook:run-cell');
}}"""


class LabPage:
    """One browser page with a notebook open."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.errors: list[str] = []
        """What the page complained about in its console."""
        self.expected: list[str] = []
        """Patterns of complaints that the test provokes."""
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda message: self._note(
            message.type, f"{message.text} ({message.location['url']})"))
        page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and not any(re.search(pattern, text) for pattern in self.expected):
            self.errors.append(text)

    # -- the page -------------------------------------------------------------------------
    def open(self, name: str) -> None:
        """Load the page anew with a notebook, up to the point where it has a kernel."""
        self.page.goto(f"{self.server.url}/lab/tree/{name}?token={TOKEN}&reset")
        self.wait_for_kernel(name)

    def wait_for_kernel(self, name: str) -> None:
        self.page.wait_for_function(
            f"name => {{ const p = window.jupyterapp && {CURRENT};"
            " return p?.context?.path === name && p.sessionContext.session?.kernel }", arg=name)
        # A mark that a reload would wipe away.
        self.page.evaluate("window.isSamePage ??= true")

    def end(self) -> None:
        """Close the page, with a picture of its last state where one is wanted."""
        self.picture(f"end-{id(self)}")
        self.page.context.close()

    def picture(self, name: str) -> None:
        """Take a screenshot into the folder that ``LAB_PICTURES`` names, if it does."""
        folder = os.environ.get("LAB_PICTURES")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))

    def command(self, command: str, **args: Any) -> Any:
        return self.page.evaluate(
            "([id, args]) => window.jupyterapp.commands.execute(id, args)", [command, args])

    def begin(self, command: str) -> None:
        """Start a command without waiting for its end."""
        self.page.evaluate("id => void window.jupyterapp.commands.execute(id)", command)

    # -- cells ------------------------------------------------------------------------------
    def cell(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate(CELL, index)
        return found

    def start(self, index: int) -> None:
        self.page.evaluate(RUN, index)

    def run(self, index: int) -> str:
        """Run a cell and return what it printed."""
        before = self.cell(index)["prompt"]
        self.start(index)
        unchanged = f"['[ ]:', '[*]:', '{before}'].includes(c.prompt)"
        self.wait_cell(index, f"!{unchanged} && c.state === 'idle'")
        return str(self.cell(index)["text"]).strip()

    def wait_cell(self, index: int, condition: str) -> dict[str, Any]:
        """Wait until `condition` (JavaScript) holds of the cell `c`."""
        self.page.wait_for_function(
            f"index => {{ const c = ({CELL})(index); return {condition}; }}", arg=index)
        return self.cell(index)

    def wait_text(self, index: int, text: str) -> None:
        self.wait_cell(index, f"c.text.includes({text!r})")

    # -- the kernel -----------------------------------------------------------------------
    @property
    def kernel_id(self) -> str:
        return str(self.page.evaluate(f"{CURRENT}.sessionContext.session.kernel.id"))

    @property
    def is_same_page(self) -> bool:
        """Whether the page has not been loaded again since it was opened."""
        return bool(self.page.evaluate("window.isSamePage === true"))

    def wait_status(self, status: str) -> None:
        self.page.wait_for_function(
            f"status => {CURRENT}.sessionContext.session.kernel.status === status", arg=status)

    # -- checkpoints ------------------------------------------------------------------------
    @property
    def button(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-ckpt-SaveButton")

    @property
    def dialog(self) -> Locator:
        return self.page.locator(".jp-ckpt-RestoreDialog")

    def toast(self, text: str | re.Pattern[str]) -> Locator:
        return self.page.locator(".Toastify__toast", has_text=text)

    def save(self) -> dict[str, Any]:
        """Save a checkpoint as the button does, and return its manifest."""
        found: dict[str, Any] = self.command("ckpt:save")
        assert found, self.page.locator(".Toastify__toast").all_inner_texts()
        return found

    def choose(self, checkpoint: dict[str, Any]) -> None:
        """Open the dialog and select a checkpoint in it."""
        self.begin("ckpt:restore")
        row = self.page.locator(f"[data-checkpoint='{checkpoint['id']}']")
        row.click()
        expect(row).to_have_attribute("aria-selected", "true")

    def restore(self, checkpoint: dict[str, Any], button: str = "Restore here") -> None:
        """Restore a checkpoint, through the dialog, up to its end."""
        self.choose(checkpoint)
        self.confirm(button)

    def confirm(self, button: str = "Restore here") -> None:
        """Press a button of the dialog and see the dialog through."""
        self.dialog.get_by_role("button", name=button).click()
        over = self.dialog.locator(".jp-ckpt-Told, .jp-ckpt-Problem")
        self.page.wait_for_function(
            "!document.querySelector('.jp-ckpt-RestoreDialog')"
            " || document.querySelector('.jp-ckpt-Told, .jp-ckpt-Problem')")
        if over.count():
            assert not self.dialog.locator(".jp-ckpt-Problem").count(), over.inner_text()
            self.dialog.get_by_role("button", name="Close").click()
        expect(self.dialog).to_have_count(0)
