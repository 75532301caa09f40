"""%checkpoint, hooks and quiesce, with an agent that only pretends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from inkernel_harness import FakeAgent, InjectedKernel, manifest, text_of, until


@pytest.fixture
def kernel() -> Iterator[InjectedKernel]:
    kernel = InjectedKernel()
    yield kernel
    kernel.close()


@pytest.fixture
def agent(kernel: InjectedKernel) -> Iterator[FakeAgent]:
    agent = FakeAgent(kernel.runtime)
    yield agent
    agent.close()


def test_magic_returns_what_the_agent_saved(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("here = %checkpoint before training --note 'lr 0.1' --pin")
    request_id = agent.request_id()
    assert agent.asked[0][2] == {"name": "before training", "note": "lr 0.1", "pin": True,
                                 "trigger": "magic"}
    assert kernel.op("quiesce", request_id=request_id, deadline_s=10, trigger="magic")["ok"]
    assert kernel.op("resume", restored=False, request_id=request_id)["ok"]
    done = manifest(name="before training")
    answer = kernel.op("finished", request_id=request_id, result=done, error=None)
    assert answer == {"ok": True, "woken": True}
    assert text_of(kernel.finish(cell)) == (
        "Checkpoint 3f2a91c0 'before training' saved: 212 MB in memory, 31 MB new on disk, "
        "paused 0.12 s")
    assert kernel.value("[here.id, here.restored, here.name, here.size_bytes, here.pause_s]") == [
        "3f2a91c0aabbccdd", False, "before training", 212000000, 0.12]
    assert kernel.run("here").startswith("Checkpoint 3f2a91c0")


def test_magic_as_last_expression_shows_once(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint")
    kernel.op("finished", request_id=agent.request_id(), result=manifest(), error=None)
    shown = [m for m in kernel.finish(cell) if m["msg_type"] in ("display_data", "execute_result")]
    assert len(shown) == 1
    assert "text/html" in shown[0]["content"]["data"]
    assert kernel.value("_.id") == "3f2a91c0aabbccdd"


def test_restored_process_returns_again(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("here = %checkpoint\nprint(here.restored)")
    request_id = agent.request_id()
    assert kernel.op("quiesce", request_id=request_id)["ok"]
    answer = kernel.op("restored", checkpoint=manifest(), epoch=2, connection=None,
                       warnings=["data.csv has changed"], runtime=str(kernel.runtime))
    assert answer == {"ok": True, "warnings": [], "woken": 1}
    text = text_of(kernel.finish(cell))
    assert "Restored from checkpoint 3f2a91c0 (saved " in text
    assert "data.csv has changed" in text
    assert text.endswith("True\n")


def test_failure_is_one_line_with_the_next_step(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint")
    error = {"id": "out-of-space", "code": 5, "message": "The disk is full.", "hint": "Free some."}
    kernel.op("finished", request_id=agent.request_id(), result=None, error=error)
    text = text_of(kernel.finish(cell))
    assert text.endswith("The disk is full. Free some.")
    assert "\n" not in text


def test_agent_that_says_no_at_once_is_heard(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.refusal = (409, {"error": {"id": "name-taken", "message": "That name is taken."}})
    assert "That name is taken." in kernel.run("%checkpoint x")


def test_missing_agent_is_one_clear_error(kernel: InjectedKernel) -> None:
    text = kernel.run("%checkpoint")
    assert "does not answer" in text
    assert "jupyter ckpt save" in text
    assert kernel.value("2") == 2


def test_waiting_polls_when_nobody_wakes_it(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint")
    agent.jobs[agent.request_id()] = {"state": "done", "result": manifest(), "error": None}
    assert "saved: 212 MB" in text_of(kernel.finish(cell))


def test_agent_that_came_after_another_gets_the_same_request(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint again")
    request_id = agent.request_id()
    agent.jobs.pop(request_id)
    until(lambda: request_id in agent.jobs, "asking again")
    asked = [body for method, path, body in agent.asked
             if (method, path) == ("PUT", f"/checkpoints/{request_id}")]
    assert len(asked) == 2
    assert asked[0] == asked[1]
    kernel.op("finished", request_id=request_id, result=manifest(), error=None)
    assert "saved: 212 MB" in text_of(kernel.finish(cell))


def test_interrupt_ends_the_wait_and_cancels(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint")
    request_id = agent.request_id()
    until(lambda: kernel.op("status")["busy"], "busy")
    os.kill(kernel.process.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in text_of(kernel.finish(cell))
    assert ("DELETE", f"/checkpoints/{request_id}", None) in agent.asked


def test_nothing_is_connected_while_quiesced(kernel: InjectedKernel, agent: FakeAgent) -> None:
    cell = kernel.start("%checkpoint")
    request_id = agent.request_id()
    assert kernel.op("quiesce", request_id=request_id)["ok"]
    asked = len(agent.asked)
    other = kernel.op("quiesce", request_id=request_id)  # doubled message: same answer
    assert other["ok"]
    # The waiter's next poll is due within two seconds; the connections of the
    # process are looked at over that span.
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert _connected(kernel) == []
        time.sleep(0.05)
    assert len(agent.asked) == asked
    kernel.op("resume", restored=False, request_id=request_id)
    until(lambda: len(agent.asked) > asked, "polling again")
    kernel.op("finished", request_id=request_id, result=manifest(), error=None)
    kernel.finish(cell)


def _connected(kernel: InjectedKernel) -> list[str]:
    inodes = set()
    for fd in os.listdir(f"/proc/{kernel.process.pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{kernel.process.pid}/fd/{fd}"))
        except OSError:
            continue
    with open("/proc/net/unix", encoding="utf-8") as table:
        rows = [line.split() for line in table][1:]
    return [" ".join(r) for r in rows
            if f"socket:[{r[6]}]" in inodes and r[5] == "03" and r[-1].endswith(".sock")]


def test_list_shows_the_agents_checkpoints(kernel: InjectedKernel, agent: FakeAgent) -> None:
    agent.checkpoints = [manifest(name="one"), manifest(id="b" * 16, pinned=True)]
    text = kernel.run("%checkpoint --list")
    assert "3f2a91c0" in text
    assert "bbbbbbbb (pinned)" in text
    assert kernel.value("[c.id[:4] for c in _]") == ["3f2a", "bbbb"]


def test_bad_options_are_usage_errors(kernel: InjectedKernel) -> None:
    assert "%checkpoint? shows" in kernel.run("%checkpoint --nonsense")
    assert "No closing quotation" in kernel.run("%checkpoint 'x")


def test_help_is_for_users(kernel: InjectedKernel) -> None:
    reply = kernel.client.inspect("%checkpoint", reply=True, timeout=60)
    text = reply["content"]["data"]["text/plain"]
    assert "jupyter ckpt restore ID" in text


def test_names_are_on_the_shell_and_on_its_checkpoint(kernel: InjectedKernel) -> None:
    names = ["checkpoint", "on_checkpoint", "on_restore", "CheckpointRefused"]
    kernel.run(f"ip = get_ipython()\nboth = [getattr(ip, n) == getattr(ip.checkpoint, n)"
               f" for n in {names}]")
    assert kernel.value("both") == [True] * 4


def test_hooks_run_on_the_main_thread_when_idle_and_when_waiting(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    kernel.run("import threading\nran = []\n"
               "@get_ipython().on_checkpoint\n"
               "def before(): ran.append(['before', threading.current_thread().name])\n"
               "@get_ipython().on_restore\n"
               "def after(): ran.append(['after', threading.current_thread().name])")
    assert kernel.op("quiesce", request_id="idle-request")["warnings"] == []
    kernel.op("restored", checkpoint=manifest(), epoch=2)
    cell = kernel.start("%checkpoint")
    request_id = agent.request_id()
    kernel.op("quiesce", request_id=request_id)
    kernel.op("restored", checkpoint=manifest(), epoch=3)
    kernel.finish(cell)
    assert kernel.value("ran") == [[w, "MainThread"] for w in ["before", "after"] * 2]


def test_hooks_run_while_a_cell_blocks_the_main_thread(kernel: InjectedKernel) -> None:
    kernel.run("ran = []\nget_ipython().on_checkpoint(lambda: ran.append(1))")
    cell = kernel.start("import time\nwhile not ran: time.sleep(.01)")
    until(lambda: kernel.op("status")["busy"], "busy")
    assert kernel.op("quiesce", request_id="request-1", deadline_s=10)["warnings"] == []
    kernel.op("resume", request_id="request-1")
    kernel.finish(cell)


def test_hook_that_raises_is_a_warning(kernel: InjectedKernel) -> None:
    kernel.run("def broken(): 1/0\nget_ipython().on_checkpoint(broken)\n"
               "get_ipython().on_restore(broken)")
    warnings = kernel.op("quiesce", request_id="request-1")["warnings"]
    assert warnings == ["on_checkpoint hook broken raised ZeroDivisionError: division by zero"]
    answer = kernel.op("restored", checkpoint=manifest(), epoch=2)
    assert "on_restore hook broken raised" in answer["warnings"][0]


def test_hook_that_hangs_is_left_behind(kernel: InjectedKernel) -> None:
    kernel.run("import threading\nstop = threading.Event()\n"
               "def hangs(): stop.wait()\nget_ipython().on_checkpoint(hangs)")
    cell = kernel.start("import time\nwhile not stop.is_set(): time.sleep(.01)")
    until(lambda: kernel.op("status")["busy"], "busy")
    answer = kernel.op("quiesce", request_id="request-1", deadline_s=1)
    assert answer["ok"]
    assert "hangs did not end within" in answer["warnings"][0]
    os.kill(kernel.process.pid, signal.SIGINT)
    kernel.finish(cell)


def test_hook_that_refuses_calls_it_off(kernel: InjectedKernel, agent: FakeAgent) -> None:
    kernel.run("ip = get_ipython()\n@ip.on_checkpoint\n"
               "def no(): raise ip.CheckpointRefused('a transaction is open')")
    cell = kernel.start("try: ip.checkpoint()\n"
                        "except ip.CheckpointRefused as error: print('refused:', error)")
    request_id = agent.request_id()
    answer = kernel.op("quiesce", request_id=request_id)
    assert answer == {"ok": False, "refused": "a transaction is open"}
    kernel.op("finished", request_id=request_id, result=None, error={
        "id": "refused-by-hook", "code": 5, "message": answer["refused"], "hint": ""})
    assert text_of(kernel.finish(cell)) == "refused: a transaction is open\n"


def test_redefined_hook_replaces_its_predecessor(kernel: InjectedKernel) -> None:
    code = "ran = globals().get('ran', [])\n@get_ipython().on_checkpoint\ndef f(): ran.append(1)"
    kernel.run(code)
    kernel.run(code)
    kernel.op("quiesce", request_id="request-1")
    kernel.op("resume", request_id="request-1")
    assert kernel.value("ran") == [1]


def test_quiesce_flushes_buffered_output(kernel: InjectedKernel) -> None:
    cell = kernel.start("import ctypes, time\nprint('python', end='')\n"
                        "ctypes.CDLL(None).printf(b'from c')\n"
                        "while not globals().get('go'): time.sleep(.01)")
    until(lambda: kernel.op("status")["busy"], "busy")

    def text() -> Any:
        assert kernel.op("quiesce", request_id="request-1")["ok"]
        kernel.op("resume", request_id="request-1")
        outputs = kernel.op("running")["outputs"]
        joined = "".join(o.get("text", "") for o in outputs)
        return "python" in joined and "from c" in joined
    until(text, "both texts in the journal")
    os.kill(kernel.process.pid, signal.SIGINT)
    kernel.finish(cell)


def test_quiesce_tells_status_and_leaves_what_the_user_made_alone(
        kernel: InjectedKernel) -> None:
    kernel.run("class Lazy:\n"
               "    def __getattribute__(self, name): raise RuntimeError(name)\n"
               "settings = Lazy()")
    answer = kernel.op("quiesce", request_id="request-1")
    assert (answer["ok"], answer["warnings"]) == (True, [])
    assert answer["status"]["execution_count"] == 1


def test_package_functions_reach_the_kernels_own(kernel: InjectedKernel) -> None:
    assert kernel.run(
        "import sys; sys.path.insert(0, " + repr(os.getcwd()) + ")\n"
        "from jupyter_ckpt import on_checkpoint, CheckpointRefused\n"
        "@on_checkpoint\ndef no(): raise CheckpointRefused('not now')") == ""
    assert kernel.op("quiesce", request_id="request-1") == {"ok": False, "refused": "not now"}


def test_package_functions_elsewhere_name_what_is_missing() -> None:
    import jupyter_ckpt
    from jupyter_ckpt.errors import NotOurKernel

    with pytest.raises(NotOurKernel):
        jupyter_ckpt.checkpoint()


def test_silence_ends_by_itself_when_the_agent_has_died(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    kernel.run("import sys; sys.modules['_jupyter_ckpt_inkernel.session'].LIFT_AFTER_TICKS = 1")
    cell = kernel.start("%checkpoint")
    request_id = agent.request_id()
    kernel.op("quiesce", request_id=request_id)
    agent.jobs.pop(request_id)
    until(lambda: request_id in agent.jobs, "asking the next agent")
    kernel.op("finished", request_id=request_id, result=manifest(), error=None)
    assert "saved" in text_of(kernel.finish(cell))


def test_late_message_about_another_checkpoint_keeps_the_silence(
        kernel: InjectedKernel, agent: FakeAgent) -> None:
    kernel.op("quiesce", request_id="request-2")
    kernel.op("resume", request_id="request-1")
    kernel.op("finished", request_id="request-1", result=manifest(), error=None)
    cell = kernel.start("%checkpoint")
    until(lambda: kernel.op("status")["busy"], "busy")
    assert agent.asked == []
    kernel.op("resume", request_id="request-2")
    kernel.op("finished", request_id=agent.request_id(), result=manifest(), error=None)
    assert "saved" in text_of(kernel.finish(cell))


@pytest.mark.parametrize(("argument", "sentence"), [
    ("name=5", "name is a text or None, not int"),
    ("note=['a']", "note is a text or None, not list"),
    ("b'x'", "name is a text or None, not bytes"), ("pin='no'", "pin is True or False, not str"),
    ("pin=None", "pin is True or False, not NoneType"),
])
def test_argument_of_another_type_is_refused_before_the_agent_is_asked(
    kernel: InjectedKernel, agent: FakeAgent, argument: str, sentence: str
) -> None:
    text = kernel.run(f"try: get_ipython().checkpoint({argument})\n"
                      "except TypeError as error: print(error)")
    assert text.strip() == f"{sentence}."
    assert agent.asked == []
