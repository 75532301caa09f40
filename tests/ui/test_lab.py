"""Checkpoints in JupyterLab: real page, real server, real kernels, real CRIU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenNotebook, lab_home, start_lab
from jupyter_harness import wait_until
from lab_page import CURRENT, LabPage
from playwright.sync_api import Browser, Route, WebSocketRoute, expect

from jupyter_ckpt.server.events import SCHEMA_ID

pytestmark = pytest.mark.timeout(600)

TICKS = 30
LONG = f"""import time
for i in range({TICKS}):
    print('tick', i, flush=True)
    time.sleep(0.3)
'done'"""
ALL_TICKS = "".join(f"tick {i}\n" for i in range(TICKS)) + "'done'"


def kept_in(held: list[Route]) -> Callable[[Route], None]:
    """Hold requests until somebody lets them go."""
    def handle(route: Route) -> None:
        held.append(route)

    return handle


def answer_with(status: int, body: dict[str, Any]) -> Any:
    def handle(route: Route) -> None:
        route.fulfill(status=status, content_type="application/json", body=json.dumps(body))

    return handle


def answer_with_page(status: int, text: str) -> Any:
    """Answer as a login page or a proxy does, with HTML."""
    def handle(route: Route) -> None:
        route.fulfill(status=status, content_type="text/html", body=text)

    return handle


# -- saving ---------------------------------------------------------------------------------
def test_button_saves_and_tells_size_and_pause(open_notebook: OpenNotebook) -> None:
    page = open_notebook("button.ipynb", "x = 1")
    page.run(0)
    page.page.evaluate(f"{CURRENT}.content.widgets[0].model.sharedModel.setSource('x = 1  # new')")
    held: list[Route] = []  # or the save might be over before anybody has looked
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/checkpoints"), kept_in(held))
    page.button.click()
    expect(page.page.locator(".jp-ckpt-SaveButton.jp-mod-saving")).to_be_visible()
    expect(page.button).to_have_attribute("aria-disabled", "true")
    held[0].continue_()
    toast = page.toast(re.compile(r"Checkpoint [0-9a-f]{8}… saved: \d+\sMB, paused \d\.\d\d\ss"))
    expect(toast).to_be_visible()
    expect(page.button).to_have_attribute("aria-disabled", "false")
    page.picture("saved")
    [manifest] = page.server.ok("GET", "/api/ckpt/checkpoints?notebook=button.ipynb")
    assert manifest["kernel"]["id"] == page.kernel_id
    document = page.server.ok("GET", f"/api/ckpt/checkpoints/{manifest['id']}/notebook")
    assert "".join(document["cells"][0]["source"]) == "x = 1  # new"


def test_a_save_that_fails_tells_message_and_hint(open_notebook: OpenNotebook) -> None:
    page = open_notebook("failing.ipynb", "x = 1")
    page.expected.append("status of 409")
    error = {"code": 5, "id": "cannot-be-saved", "message": "The session holds an io_uring.",
             "hint": "Close it and save again."}
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/checkpoints"),
                    answer_with(409, {"message": error["message"], "error": error}))
    page.button.click()
    expect(page.toast("The session holds an io_uring. Close it and save again.")).to_be_visible()
    page.picture("save-failed")
    expect(page.button).to_have_attribute("aria-disabled", "false")


def test_a_long_error_is_shown_whole_on_demand(open_notebook: OpenNotebook) -> None:
    page = open_notebook("failing-long.ipynb", "x = 1")
    page.expected.append("status of 507")
    error = {"code": 5, "id": "out-of-space", "message": "The disk is full. " * 6,
             "hint": "Free some space, for example with 'jupyter ckpt gc'." * 2}
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/checkpoints"),
                    answer_with(507, {"message": error["message"], "error": error}))
    page.button.click()
    page.page.get_by_role("button", name="Show details").click()
    expect(page.page.locator(".jp-ckpt-Details")).to_contain_text(str(error["hint"]))
    page.picture("save-failed-details")


def test_button_does_not_wait_for_ever_for_an_event_that_was_lost(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("lost.ipynb", "x = 1")
    page.expected.append("status of 404")
    page.server.ok("POST", "/api/events", {
        "schema_id": SCHEMA_ID, "version": "1", "data": {
            "action": "save", "phase": "started", "kernel_id": page.kernel_id,
            "job_id": "nobody-does-it", "progress": 0.0}})
    expect(page.button).to_have_attribute("aria-disabled", "true")
    expect(page.button).to_have_attribute("aria-disabled", "false", timeout=60_000)
    page.save()


def test_a_save_goes_on_while_a_proxy_answers_for_a_server_that_restarts(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("proxy.ipynb", "x = 1")
    page.expected.append("status of 50[23]")
    answers = [answer_with_page(502, "<h1>Bad Gateway</h1>"), answer_with(503, {"message": "No"})]
    page.page.route(re.compile(r"/api/ckpt/jobs/"), lambda route: (
        answers.pop()(route) if answers else route.continue_()))
    assert page.save()["kernel"]["id"] == page.kernel_id
    assert answers == []


def test_a_login_page_in_place_of_an_answer_is_told(open_notebook: OpenNotebook) -> None:
    page = open_notebook("login.ipynb", "x = 1")
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/checkpoints"),
                    answer_with_page(200, "<h1>Log in</h1>"))
    page.button.click()
    expect(page.toast("The answer did not come from the Jupyter server.")).to_be_visible()


@pytest.mark.parametrize(("status", "whose", "told"), [
    (404, "a proxy's", "The server answered 404"),
    (404, "Jupyter's", "This Jupyter server has no checkpoint support."),
    (504, "a proxy's", "The Jupyter server does not answer."),
])
def test_a_page_of_a_proxy_is_not_taken_for_one_of_jupyter(
    open_notebook: OpenNotebook, status: int, whose: str, told: str
) -> None:
    page = open_notebook("pages.ipynb", "x = 1")
    page.expected.append(f"status of {status}")
    text = page.server.request("GET", "/api/nothing").text if whose == "Jupyter's" else "<p>No"
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/checkpoints"),
                    answer_with_page(status, text))
    page.button.click()
    expect(page.toast(told)).to_be_visible()


def test_menu_palette_and_shortcut_offer_the_commands(open_notebook: OpenNotebook) -> None:
    page = open_notebook("menu.ipynb", "x = 1")
    page.page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
    menu = page.page.locator(".lm-Menu")
    expect(menu.get_by_text("Save Checkpoint")).to_be_visible()
    expect(menu.get_by_text("Restore Checkpoint…")).to_be_visible()
    page.picture("menu")
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("Control+Shift+c")
    page.page.locator(".lm-CommandPalette-input").fill("checkpoint")
    found = page.page.locator(".lm-CommandPalette-itemLabel").all_inner_texts()
    assert {"Save Checkpoint", "Restore Checkpoint…"} <= set(found)
    page.picture("palette")
    page.page.keyboard.press("Escape")
    page.page.locator(".jp-Notebook .jp-Cell").first.click()
    page.page.keyboard.press("Control+Alt+s")
    expect(page.toast(re.compile("saved: "))).to_be_visible()


# -- the dialog -----------------------------------------------------------------------------
def test_dialog_without_checkpoints_says_how_to_make_one(open_notebook: OpenNotebook) -> None:
    page = open_notebook("empty.ipynb", "x = 1")
    page.begin("ckpt:restore")
    expect(page.dialog.locator(".jp-ckpt-Empty")).to_contain_text("No checkpoint of empty.ipynb")
    expect(page.dialog.get_by_role("button", name="Restore here")).to_be_hidden()
    page.picture("dialog-empty")
    expect(page.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.page.keyboard.press("Escape")
    expect(page.dialog).to_have_count(0)


def test_dialog_lists_newest_first_with_keyboard_and_details(open_notebook: OpenNotebook) -> None:
    page = open_notebook("listed.ipynb", "x = 1", LONG)
    page.run(0)
    older = page.command("ckpt:save", name="after loading the data")
    page.start(1)
    page.wait_text(1, "tick 2")
    newer = page.save()
    page.begin("ckpt:restore")
    rows = page.dialog.locator(".jp-ckpt-Row")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(newer["id"][:8])
    expect(rows.nth(0)).to_contain_text("cell running")
    expect(rows.nth(1)).to_contain_text("after loading the data")
    expect(page.dialog.locator(".jp-ckpt-Facts")).to_contain_text(newer["id"])
    expect(page.dialog.locator(".jp-ckpt-List")).to_be_focused()
    page.page.keyboard.press("ArrowDown")
    expect(page.dialog.locator(".jp-ckpt-Facts")).to_contain_text(older["id"])
    page.picture("dialog")
    page.page.keyboard.press("Escape")
    expect(page.dialog).to_have_count(0)


def test_a_restore_that_is_refused_keeps_dialog_and_session(open_notebook: OpenNotebook) -> None:
    page = open_notebook("refused.ipynb", "x = 1", "print(x)")
    page.run(0)
    checkpoint = page.save()
    page.expected.append("status of 409")
    error = {"code": 6, "id": "restore-refused", "message": "The library libfoo.so has changed.",
             "hint": "Install the version of then."}
    page.page.route(re.compile(r"/api/ckpt/checkpoints/[^/]+/restore"),
                    answer_with(409, {"message": error["message"], "error": error}))
    page.choose(checkpoint)
    page.dialog.get_by_role("button", name="Restore here").click()
    problem = page.dialog.locator(".jp-ckpt-Problem")
    expect(problem).to_contain_text("The library libfoo.so has changed.")
    expect(problem).to_contain_text("Install the version of then.")
    page.picture("dialog-refused")
    expect(page.dialog.get_by_role("button", name="Restore here")).to_be_enabled()
    page.dialog.get_by_role("button", name="Cancel").click()
    assert page.run(1) == "1"


def test_every_part_of_the_dialog_is_seen_and_reached_however_small_the_window(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("small.ipynb", "x = 1")
    page.run(0)
    base = page.save()
    long = {"name": "a very long name " * 5, "pinned": True, "note": "a note " * 60,
            "warnings": ["A file was too large. " * 10] * 3}
    many = [{**base, **(long if number % 3 else {}), "id": f"{number:02x}{base['id'][2:]}"}
            for number in range(30)]
    page.page.route(re.compile(r"/api/ckpt/checkpoints\?"), answer_with(200, many))
    page.page.set_viewport_size({"width": 420, "height": 560})
    page.begin("ckpt:restore")
    rows = page.dialog.locator(".jp-ckpt-Row")
    expect(rows).to_have_count(30)
    expect(page.dialog).to_have_attribute("aria-label", "Restore a checkpoint of small.ipynb")
    page.page.keyboard.press("ArrowDown")
    page.picture("dialog-small")
    name = rows.nth(1).locator(".jp-ckpt-Row-name").bounding_box()
    assert name is not None
    assert name["width"] > 200
    for _ in range(4):  # from the list: the option, and the three buttons
        page.page.keyboard.press("Tab")
        seen = page.page.evaluate("""(() => {
            const box = document.activeElement.getBoundingClientRect();
            const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
            return document.activeElement.contains(top);
        })()""")
        assert seen, page.page.evaluate("document.activeElement.outerHTML")
    expect(page.dialog.get_by_role("button", name="Restore here")).to_be_focused()
    page.page.keyboard.press("Tab")
    expect(page.dialog.locator(":focus")).to_have_count(1)  # it stays in the dialog
    page.page.keyboard.press("Escape")
    expect(page.dialog).to_have_count(0)


def test_checkpoint_of_another_kernelspec_is_opened_as_new_only(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("other.ipynb", "x = 1")
    page.run(0)
    base = page.save()
    other = {**base, "kernel": {**base["kernel"], "name": "ir"}}
    page.page.route(re.compile(r"/api/ckpt/checkpoints\?"), answer_with(200, [other]))
    page.begin("ckpt:restore")
    expect(page.dialog.locator(".jp-ckpt-Misfit")).to_contain_text("Open it as a new notebook")
    expect(page.dialog.get_by_role("button", name="Restore here")).to_be_disabled()
    page.page.keyboard.press("Enter")
    expect(page.dialog.get_by_role("button", name="Open as new notebook")).to_be_enabled()
    page.picture("dialog-other-kernel")
    page.page.keyboard.press("Escape")


# -- restoring ------------------------------------------------------------------------------
def test_restore_here_brings_the_old_value_back(open_notebook: OpenNotebook) -> None:
    page = open_notebook("value.ipynb", "x = 'old'", "x = 'new'", "print(x)")
    page.run(0)
    kernel_id = page.kernel_id
    page.button.click()
    expect(page.toast(re.compile("saved: "))).to_be_visible()
    [checkpoint] = page.server.ok("GET", "/api/ckpt/checkpoints?notebook=value.ipynb")
    page.run(1)
    assert page.run(2) == "new"
    page.restore(checkpoint)
    page.wait_status("idle")
    assert page.run(2) == "old"
    assert page.cell(2)["prompt"] == "[2]:"
    assert page.kernel_id == kernel_id
    assert page.is_same_page
    page.picture("restored-here")


def test_restore_of_an_idle_session_ends_the_waiting_of_cells(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("settled.ipynb", "x = 1", LONG, "print(x)")
    page.run(0)
    checkpoint = page.save()
    page.start(1)
    page.start(2)
    page.wait_text(1, "tick 2")
    page.restore(checkpoint)
    for index in (1, 2):
        page.wait_cell(index, "c.prompt === '[ ]:' && c.state === 'idle'")
    page.wait_status("idle")
    assert page.run(2) == "1"
    assert page.cell(2)["prompt"] == "[2]:"
    assert page.is_same_page


def test_restore_in_mid_cell_rolls_back_and_goes_on(open_notebook: OpenNotebook) -> None:
    page = open_notebook("mid.ipynb", "x = 1", LONG, "print(x)")
    page.run(0)
    page.start(1)
    page.wait_text(1, "tick 3\n")
    checkpoint = page.save()
    page.wait_text(1, "tick 24\n")
    page.restore(checkpoint)
    page.wait_cell(1, "!c.text.includes('tick 24') && c.prompt === '[*]:'")
    page.picture("restored-mid-cell")
    page.wait_cell(1, "c.prompt === '[2]:' && c.state === 'idle'")
    assert page.cell(1)["text"] == ALL_TICKS
    assert page.run(2) == "1"


def test_restore_in_mid_cell_after_its_end_runs_it_again_from_there(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("again.ipynb", LONG)
    page.start(0)
    page.wait_text(0, "tick 8\n")
    checkpoint = page.save()
    page.wait_cell(0, "c.prompt === '[1]:'")
    page.restore(checkpoint)
    page.wait_cell(0, "c.prompt === '[*]:'")
    page.wait_cell(0, "c.prompt === '[1]:' && c.state === 'idle'")
    assert page.cell(0)["text"] == ALL_TICKS


def test_restore_with_the_notebook_brings_its_cells_back(open_notebook: OpenNotebook) -> None:
    page = open_notebook("document.ipynb", "x = 1", LONG)
    page.run(0)
    page.start(1)
    page.wait_text(1, "tick 3\n")
    checkpoint = page.save()
    page.page.evaluate(f"{CURRENT}.content.widgets[0].model.sharedModel.setSource('changed')")
    page.choose(checkpoint)
    page.dialog.get_by_role("checkbox").check()
    page.confirm()
    assert page.cell(0)["source"] == "x = 1"
    page.wait_cell(1, "c.prompt === '[2]:' && c.state === 'idle'")
    assert page.cell(1)["text"] == ALL_TICKS


def test_restore_as_new_notebook_leaves_the_present_one_alone(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("branch.ipynb", "x = 'old'", "x = 'new'", "print(x)")
    page.run(0)
    checkpoint = page.save()
    page.run(1)
    kernel_id = page.kernel_id
    page.restore(checkpoint, "Open as new notebook")
    page.wait_for_kernel("branch-restored.ipynb")
    assert page.kernel_id != kernel_id
    assert page.run(2) == "old"
    page.picture("restored-as-new")
    page.command("docmanager:open", path="branch.ipynb")
    page.wait_for_kernel("branch.ipynb")
    assert page.kernel_id == kernel_id
    assert page.run(2) == "new"


def test_restore_without_a_kernel_opens_its_session_again(open_notebook: OpenNotebook) -> None:
    page = open_notebook("ended.ipynb", "x = 'kept'", "print(x)")
    page.run(0)
    checkpoint = page.save()
    page.page.evaluate(f"{CURRENT}.sessionContext.shutdown()")
    page.page.wait_for_function(f"!{CURRENT}.sessionContext.session")
    expect(page.button).to_have_attribute("aria-disabled", "true")
    page.restore(checkpoint)
    page.wait_for_kernel("ended.ipynb")
    assert page.run(1) == "kept"


def test_restore_here_of_a_kernel_that_the_server_lost_opens_its_session_again(
    open_notebook: OpenNotebook,
) -> None:
    page = open_notebook("gone.ipynb", "x = 'kept'", "print(x)")
    page.expected += ["404", "WebSocket", "Kernel", "kernel", "session"]
    page.run(0)
    checkpoint = page.save()
    page.choose(checkpoint)
    [session] = [one for one in page.server.ok("GET", "/api/sessions")
                 if one["path"] == "gone.ipynb"]
    assert page.server.request("DELETE", f"/api/sessions/{session['id']}").status_code == 204
    page.confirm()
    page.wait_for_kernel("gone.ipynb")
    page.wait_status("idle")
    assert page.run(1) == "kept"


# -- losing touch ---------------------------------------------------------------------------
def test_reload_in_mid_cell_keeps_streaming(open_notebook: OpenNotebook) -> None:
    longer = LONG.replace(f"range({TICKS})", "range(100)")  # a page may take long to load
    page = open_notebook("reload.ipynb", "x = 1", longer, "print(x)")
    page.run(0)
    page.start(1)
    page.wait_text(1, "tick 3\n")
    page.command("docmanager:save")
    page.open("reload.ipynb")
    page.wait_cell(1, "c.prompt === '[*]:' && c.text.includes('tick 3')")
    page.picture("reloaded")
    page.wait_cell(1, "c.prompt === '[2]:' && c.state === 'idle'")
    assert page.cell(1)["text"] == "".join(f"tick {i}\n" for i in range(100)) + "'done'"
    assert page.run(2) == "1"


def test_reload_in_mid_cell_keeps_what_the_journal_is_too_small_for(
    open_notebook: OpenNotebook
) -> None:
    large = "display({'text/plain': 'large' + 'x' * 1_200_000}, raw=True)\n"
    page = open_notebook("large.ipynb", large + LONG)
    page.start(0)
    page.wait_text(0, "tick 3\n")
    page.command("docmanager:save")
    page.open("large.ipynb")
    page.wait_cell(0, "c.prompt === '[1]:' && c.state === 'idle'")
    assert page.cell(0)["text"] == "large" + "x" * 1_200_000 + ALL_TICKS


def test_reload_in_mid_cell_goes_on_updating_displays(open_notebook: OpenNotebook) -> None:
    page = open_notebook("updates.ipynb", f"""import time
shown = display('step 0', display_id=True)
for i in range({TICKS}):
    shown.update(f'step {{i}}')
    time.sleep(0.3)""")
    page.start(0)
    page.wait_text(0, "step 3")
    page.command("docmanager:save")
    page.open("updates.ipynb")
    page.wait_cell(0, "c.prompt === '[1]:' && c.state === 'idle'")
    assert page.cell(0)["text"] == f"'step {TICKS - 1}'"


def test_cells_that_ended_while_nobody_looked_are_filled_in(open_notebook: OpenNotebook) -> None:
    page = open_notebook("away.ipynb", LONG, "print('second')")
    page.start(0)
    page.start(1)
    page.wait_text(0, "tick 3\n")
    page.command("docmanager:save")
    kernel_id = page.kernel_id
    page.page.goto("about:blank")
    running = f"/api/ckpt/kernels/{kernel_id}/running"
    wait_until(lambda: page.server.ok("GET", running)["busy"] is False, 60, "the cells end")
    page.open("away.ipynb")
    assert page.wait_cell(0, "c.prompt === '[1]:'")["text"] == ALL_TICKS
    assert page.wait_cell(1, "c.prompt === '[2]:'")["text"] == "second\n"


def test_outputs_that_the_user_cleared_stay_away(open_notebook: OpenNotebook) -> None:
    page = open_notebook("cleared.ipynb", "print('one')", "print('two')")
    page.run(0)
    page.command("docmanager:save")
    page.command("notebook:clear-all-cell-outputs")
    page.command("docmanager:save")
    page.open("cleared.ipynb")
    assert page.run(1) == "two"
    assert page.cell(0)["text"] == ""


def test_cell_begun_while_the_page_reattaches_shows_its_output_once(
    open_notebook: OpenNotebook,
) -> None:
    """What the page asked for tells of that cell, too, but its messages all come by themselves."""
    page = open_notebook("begun.ipynb", "import os, time\nprint('one')\n"
                         "while not os.path.exists('begun.go'): time.sleep(.05)")
    asked: list[Route] = []
    late: list[Callable[[], None]] | None = None

    def pass_on(line: WebSocketRoute) -> None:
        server = line.connect_to_server()
        line.on_message(server.send)

        def answer(message: str | bytes) -> None:
            if late is None:
                line.send(message)
            else:
                late.append(lambda: line.send(message))

        server.on_message(answer)

    page.page.goto("about:blank")  # what this page still asks would be kept, never answered
    page.page.route_web_socket(re.compile(r"/channels"), pass_on)
    page.page.route(re.compile(r"/api/ckpt/kernels/[^/]+/running"), kept_in(asked))
    page.open("begun.ipynb")
    wait_until(lambda: page.page.evaluate("1") and asked, what="the page asks what runs")
    page.wait_status("idle")
    late = []
    page.start(0)

    def printed() -> bool:
        page.page.evaluate("1")  # or nothing passes the routes
        said = page.server.ok("GET", f"/api/ckpt/kernels/{page.kernel_id}/running")["running"]
        return bool(said and said["outputs"])

    wait_until(printed, what="the cell has printed")
    with page.page.expect_response(re.compile(r"/running")):
        asked[0].continue_()
    page.page.evaluate("new Promise(done => setTimeout(done, 0))")
    messages, late = late, None
    for send in messages:
        send()
    (page.server.home.notebooks / "begun.go").touch()
    assert page.wait_cell(0, "c.prompt === '[1]:' && c.state === 'idle'")["text"] == "one\n"


def test_kill_of_the_server_in_mid_cell_and_the_page_goes_on(
    tmp_path: Path, browser: Browser
) -> None:
    home = lab_home(tmp_path / "home")
    server = start_lab(home)
    servers = [server]
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = LabPage(context.new_page(), server)
    page.expected += ["ERR_CONNECTION_REFUSED", "WebSocket", "ERR_EMPTY_RESPONSE",
                      "ERR_CONNECTION_RESET", "NetworkError", "Failed to fetch"]
    try:
        home.write_notebook("killed.ipynb", "x = 1", LONG, "print(x)")
        page.open("killed.ipynb")
        page.run(0)
        page.start(1)
        page.wait_text(1, "tick 3\n")
        server.kill()
        servers.append(start_lab(home, port=server.port))
        page.wait_cell(1, "c.prompt === '[2]:' && c.state === 'idle'")
        page.picture("after-kill")
        assert page.cell(1)["text"] == ALL_TICKS
        assert page.run(2) == "1"
        assert page.is_same_page
    finally:
        context.close()
        for one in servers:
            one.stop()
        home.end_all_kernels()
    assert page.errors == []


