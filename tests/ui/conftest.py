"""A real JupyterLab with the built extension, and Chromium to look at it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from checkpointable import need_checkpoints
from playwright.sync_api import Browser, sync_playwright

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import jupyter_harness  # noqa: E402
from jupyter_harness import (  # noqa: E402
    Home,
    Server,
)
from lab_page import LabPage  # noqa: E402

BUILT = TESTS.parent / "jupyter_ckpt" / "labextension"
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update",
                  "--disable-sync", "--disable-dev-shm-usage")
LAB_EXTENSIONS = {"jupyterlab": True, "jupyter_lsp": True, "notebook_shim": True,
                  "jupyter_server_terminals": True}
OpenNotebook = Callable[..., LabPage]


def chromium() -> str | None:
    """Return the path of a Chromium that is installed here."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def start_lab(home: Home, *arguments: str, port: int | None = None) -> Server:
    """Start a JupyterLab; on the port of another one, it is that one's successor."""
    chosen = (lambda: port) if port else jupyter_harness.free_port
    with (patch.dict(jupyter_harness.EXTENSIONS, LAB_EXTENSIONS),
          patch.object(jupyter_harness, "free_port", chosen)):
        # Before the one that may be installed in the environment.
        return Server(home, *arguments, "--LabApp.expose_app_in_browser=True",
                      f"--LabApp.extra_labextensions_path={home.folder / 'labextensions'}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium is installed here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


def lab_home(folder: Path) -> Home:
    """Make a user who has the built extension and wants no news."""
    need_checkpoints()
    if not (BUILT / "package.json").exists():
        pytest.fail("The extension is not built: npm ci && npm run build:prod in labextension/.")
    home = Home(folder)
    settings = home.folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    (settings / "apputils-extension").mkdir(parents=True)
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}')
    extensions = home.folder / "labextensions" / "@jupyter-ckpt"
    extensions.mkdir(parents=True)
    (extensions / "labextension").symlink_to(BUILT)
    return home


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = lab_home(tmp_path_factory.mktemp("lab"))
    server = start_lab(home)
    yield server
    server.stop()
    home.end_all_kernels()


@pytest.fixture
def open_notebook(lab: Server, browser: Browser) -> Iterator[OpenNotebook]:
    """Write a notebook and open it in a fresh browser; no test leaves console errors."""
    opened: list[LabPage] = []

    def open_one(name: str, *sources: str, server: Server | None = None) -> LabPage:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        page = LabPage(context.new_page(), server or lab)
        opened.append(page)
        page.server.home.write_notebook(name, *sources)
        page.open(name)
        return page

    yield open_one
    for page in opened:
        page.end()
    for model in lab.ok("GET", "/api/kernels"):
        lab.request("DELETE", f"/api/kernels/{model['id']}")
    assert [error for page in opened for error in page.errors] == []
