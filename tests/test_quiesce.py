"""What a save makes of the kernel's answer before the freeze, and a restore of its silence."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from fake_kernels import a_manifest

from jupyter_ckpt.agent.recordfile import RecordFile
from jupyter_ckpt.agent.restore import Prepared, Restore
from jupyter_ckpt.agent.save import NOT_QUIET, Save
from jupyter_ckpt.agent.savedfiles import FilePlan
from jupyter_ckpt.agent.storing import Captured
from jupyter_ckpt.agent.tools import Tools
from jupyter_ckpt.errors import CannotBeSaved, CheckpointRefused, DumpFailed
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record

TOOLS = cast(Tools, None)


class Inside:
    """The line to an in-kernel part that always answers the same."""

    def __init__(self, answer: dict[str, Any] | None) -> None:
        self.answer = answer

    def ask(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any] | None:
        return self.answer

    def is_up(self) -> bool:
        return self.answer is not None


class KernelThatSays:
    stopped = False

    def __init__(self, answer: dict[str, Any] | None, **record: Any) -> None:
        self.link = Inside(answer)
        self.record = Record("kernel-0001", kernel=ProcessId(1, 0), injected=True, **record)

    def is_stopped(self) -> bool:
        return self.stopped


def quiesced(answer: dict[str, Any] | None, **record: Any) -> Captured:
    save = Save(TOOLS, cast(Any, KernelThatSays(answer, **record)), {}, Job("a", "checkpoints"),
                "0" * 16)
    save._quiesce()
    return save.captured


def test_kernel_that_could_not_prepare_is_saved_with_a_warning() -> None:
    captured = quiesced({"ok": False, "error": {"id": "internal", "message": "RuntimeError: no"}})
    assert captured.warnings == [
        f"The kernel could not prepare for the freeze (RuntimeError: no): {NOT_QUIET}"]
    assert captured.status == {}


def test_kernel_that_is_being_saved_already_is_not_saved() -> None:
    with pytest.raises(DumpFailed, match="still open"):
        quiesced({"ok": False, "error": {"id": "busy", "message": "A line is still open."}})


def test_hook_refuses() -> None:
    with pytest.raises(CheckpointRefused, match="not now"):
        quiesced({"ok": False, "refused": "not now"})


@pytest.mark.parametrize(("heard", "why"), [
    (True, "held by native code"), (False, "its in-kernel part was never heard")])
def test_silence_is_told_with_its_likely_cause(heard: bool, why: str) -> None:
    [warning] = quiesced(None, link_seen=heard).warnings
    assert why in warning
    assert NOT_QUIET in warning


def test_kernel_that_is_stopped_while_it_is_asked_is_refused() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitpid(process.pid, os.WUNTRACED)
            this = ProcessId.of(process.pid)
            kernel = KernelThatSays(None, root=this, mode="root")
            kernel.record.kernel, kernel.stopped = this, True
            save = Save(TOOLS, cast(Any, kernel), {}, Job("a", "checkpoints"), "0" * 16)
            with pytest.raises(CannotBeSaved, match="is stopped"):
                save._quiesce()
        finally:
            process.kill()


@pytest.mark.parametrize(("details", "key"), [
    ({"injected": True, "link_seen": True}, "theirs"),
    ({"injected": True, "link_seen": False}, "saved"),
    ({"injected": True}, "theirs"),  # of an older version, which did not tell
    ({"injected": False}, "saved")])
def test_process_that_cannot_be_told_of_another_key_keeps_its_own(
    tmp_path: Path, details: dict[str, Any], key: str
) -> None:
    restore = Restore(TOOLS, RecordFile(tmp_path), {"connection": {"key": "theirs"}},
                      Job("a", "restores"))
    saved = {"connection": {"key": "saved", "shell_port": 5001}, **details}
    prepared = Prepared(a_manifest("kernel-0001"), saved, tmp_path, FilePlan(), None)
    assert restore._connection(prepared, {5001: 5002}) == {"key": key, "shell_port": 5002}
