"""Bad input: one clear sentence, the right exit code, nothing changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fake_kernels import KERNEL_ID, OTHER_ID, Ran, Shell, a_manifest, stored

from jupyter_ckpt.errors import (
    AgentUnreachable,
    CannotBeSaved,
    CheckpointError,
    CheckpointRefused,
    CriuBroken,
    CriuMissing,
    JobNotFound,
    ModeUnavailable,
    NotOurKernel,
    OutOfSpace,
    RestoreFailed,
    RestoreRefused,
    UsageError,
)


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys) -> Shell:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.delenv("JUPYTER_CKPT_DEBUG", raising=False)
    return Shell(capsys, tmp_path)


def check(ran: Ran, code: int, error_id: str) -> None:
    """Check an error in JSON: the code, the id, and a sentence that ends like one."""
    error = ran.error
    assert (error["code"], error["id"]) == (code, error_id)
    assert error["message"].endswith((".", "?"))
    assert "\n" not in error["message"]
    assert ran.err == ""


@pytest.mark.parametrize("verb", ["show", "restore", "pin", "unpin", "rm", "verify"])
@pytest.mark.parametrize(("text", "code", "error_id"), [
    ("abcdef012345", 3, "checkpoint-not-found"),
    ("no such name", 3, "checkpoint-not-found"),
    ("../../etc/passwd", 2, "malformed-id"),
    ("", 2, "malformed-id"),
    ("  ", 2, "malformed-id"),
    ("abc", 3, "checkpoint-not-found"),
    ("a\x00b", 2, "malformed-id"),
    ("x" * 500, 2, "malformed-id"),
])
def test_an_id_that_names_nothing(shell: Shell, verb, text, code, error_id) -> None:
    stored(shell.store, a_manifest())
    check(shell.run(verb, text, "--json"), code, error_id)
    assert len(shell.store.manifests()) == 1
    assert shell.kernels.calls == []


@pytest.mark.parametrize("verb", ["show", "restore", "pin", "rm", "verify"])
def test_the_beginning_of_two_ids(shell: Shell, verb) -> None:
    for ending in ("0", "1"):
        stored(shell.store, a_manifest(id="abcd" + ending * 12))
    check(shell.run(verb, "abcd", "--json"), 2, "ambiguous-id")
    assert len(shell.store.manifests()) == 2


@pytest.mark.parametrize("args", [
    ("save", "nothere"), ("fork", "nothere"), ("stop", "nothere"), ("list", "nothere"), ("save",),
    ("schedule", "nothere"), ("schedule", "nothere", "--every", "10m"),
])
def test_a_kernel_that_does_not_run(shell: Shell, args) -> None:
    check(shell.run(*args, "--json"), 3, "kernel-not-found")


def test_save_without_kernel_when_two_run(shell: Shell) -> None:
    shell.kernels.add(KERNEL_ID)
    shell.kernels.add(OTHER_ID)
    assert shell.run("save", "--json").code == 2
    assert shell.kernels.calls == []


@pytest.mark.parametrize("name", ["", "  ", "abcdef", "-x", "a/b", "a\nb", "n" * 101])
def test_a_name_that_cannot_be_one(shell: Shell, name) -> None:
    shell.kernels.add()
    manifest = stored(shell.store, a_manifest())
    check(shell.run("save", f"--name={name}", "--json"), 2, "usage")
    check(shell.run("rename", manifest.id, "--json", "--", name), 2, "usage")
    assert shell.kernels.calls == []
    assert shell.store.resolve(manifest.id).name is None


@pytest.mark.parametrize(("name", "reason", "other"), [
    ("-x", "starts with '-'", "'/'"), ("a/b", "holds '/'", "starts"),
    ("a\nb", "cannot be printed", "'/'"), ("", "1 to 100 characters", "starts"),
])
def test_a_name_is_refused_for_the_reason_that_applies(shell: Shell, name, reason, other) -> None:
    shell.kernels.add()
    error = shell.run("save", f"--name={name}", "--json").error
    assert reason in error["message"]
    assert other not in error["message"]
    assert error["hint"].endswith(".")


@pytest.mark.parametrize(("args", "option"), [
    (["--keep-hourly", "-1"], "--keep-hourly"), (["--keep-daily", "1001"], "--keep-daily"),
    (["--keep", "0"], "--keep"), (["--cells", "0"], "--cells"),
])
def test_a_schedule_is_refused_by_the_name_of_the_option(shell: Shell, args, option) -> None:
    shell.kernels.add()
    error = shell.run("schedule", KERNEL_ID, *args, "--json").error
    assert option in error["message"]
    assert "keep_" not in error["message"] + error["hint"]


@pytest.mark.parametrize("limit", ["-5G", "-1", "-5.5MB", "-.5G"])
def test_a_negative_quota_is_no_option(shell: Shell, limit) -> None:
    stored(shell.store, a_manifest())
    ran = shell.run("quota", limit, "--json")
    check(ran, 2, "usage")
    assert ran.error["message"] == f"{limit!r} is not an amount of bytes."
    assert "500M" in ran.error["hint"]
    assert shell.run("quota", "--jsom").code == 2
    assert shell.store.quota_bytes() is None


def test_a_name_that_exists(shell: Shell) -> None:
    stored(shell.store, a_manifest(name="first"))
    second = stored(shell.store, a_manifest())
    check(shell.run("rename", second.id, "first", "--json"), 2, "name-taken")
    assert shell.store.resolve(second.id).name is None


@pytest.mark.parametrize("args", [
    (), ("nonsense",), ("save", "a", "b"), ("save", "--colour"), ("show",), ("rm",), ("--json",),
    ("fork", "k", "-n", "0"), ("fork", "k", "-n", "many"), ("restore", "x", "--files", "burn"),
    ("restore", "x", "--wait", "-1"), ("schedule",), ("schedule", "k", "--cells", "few"),
])
def test_a_command_line_that_makes_no_sense(shell: Shell, args) -> None:
    ran = shell.run(*args, "--json")
    check(ran, 2, "usage")
    assert "--help" in ran.error["hint"]
    human = shell.run(*args)
    assert human.code == 2
    if "--json" not in args:
        assert human.out == ""
        assert human.err


@pytest.mark.parametrize("args", [
    ("--every", "soon"), ("--every", ""), ("--every", "-5m"), ("--every", "4s"),
    ("--every", "31d"), ("--every", "1e3"), ("--every", "inf"), ("--every", "10 weeks"),
    ("--cells", "0"), ("--cells", "-3"), ("--cells", "10001"), ("--keep", "0"),
    ("--keep", "1001", "--cells", "1"), ("--keep", "3"), ("--off", "--every", "10m"),
])
def test_a_schedule_that_cannot_be(shell: Shell, args) -> None:
    record = shell.kernels.add()
    ran = shell.run("schedule", KERNEL_ID, *args, "--json")
    check(ran, 2, "usage")
    assert record.schedule is None


def test_restore_in_place_and_new_exclude_each_other(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    check(shell.run("restore", manifest.id, "--in-place", "--new", "--json"), 2, "usage")


def test_a_kernelspec_that_does_not_exist(shell: Shell) -> None:
    ran = shell.run("start", "--kernel", "cobol", "--json")
    check(ran, 3, "not-found")
    assert "python3" in ran.error["hint"]


@pytest.mark.parametrize("content", [None, "", "[]", '{"metadata": []}', "\xff"])
def test_start_for_something_that_is_no_notebook(shell: Shell, tmp_path, content) -> None:
    path = tmp_path / "job.ipynb"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    check(shell.run("start", "--notebook", str(path), "--json"), 2, "usage")
    assert shell.kernels.calls == []


# -- the store -------------------------------------------------------------------
def test_a_store_that_is_named_but_missing(shell: Shell, tmp_path) -> None:
    missing = tmp_path / "typo"
    check(shell.run("list", "--store", str(missing), "--json"), 4, "store-unusable")
    assert not missing.exists()


@pytest.mark.parametrize("verb", ["list", "gc", "ps", "save", "quota"])
def test_an_empty_store_option_is_not_the_present_folder(
        shell: Shell, verb, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(shell.run(verb, "--store", "", "--json"), 2, "usage")
    assert not list(tmp_path.iterdir())


def test_the_beginning_of_an_id_has_four_digits(shell: Shell) -> None:
    manifest = stored(shell.store, a_manifest())
    ran = shell.run("show", manifest.id[:3], "--json")
    assert "too short" in ran.error["message"]
    assert "4 digits" in ran.error["hint"]


def test_an_empty_kernel_name_is_not_the_default(shell: Shell) -> None:
    check(shell.run("start", "--kernel", "", "--json"), 2, "usage")


def test_a_store_that_is_a_file(shell: Shell, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    check(shell.run("list", "--store", str(tmp_path / "file"), "--json"), 4, "store-unusable")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_store_with_open_permissions(shell: Shell, mode) -> None:
    stored(shell.store, a_manifest())
    os.chmod(shell.locations.store_dir, mode)
    check(shell.run("list", "--json"), 4, "store-unusable")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_store_of_another_user(shell: Shell) -> None:
    stored(shell.store, a_manifest())
    os.chown(shell.locations.store_dir, 12345, 12345)
    check(shell.run("list", "--json"), 4, "store-unusable")


def _manifest_file(shell: Shell, checkpoint_id: str):
    (path,) = (shell.locations.store_dir / "manifests").glob(f"{checkpoint_id}*")
    return path


@pytest.mark.parametrize("verb", ["show", "restore", "pin"])
@pytest.mark.parametrize(("old", "new", "error_id"), [
    (b'"pinned"', b'"pinmed"', None),
    (b"python3", b"python2", "signature-invalid"),
    (b"{", b"", "manifest-corrupt"),
])
def test_an_altered_manifest(shell: Shell, verb, old, new, error_id) -> None:
    manifest = stored(shell.store, a_manifest())
    path = _manifest_file(shell, manifest.id)
    altered = path.read_bytes().replace(old, new)
    path.write_bytes(altered)
    ran = shell.run(verb, manifest.id, "--json")
    check(ran, 7, error_id or ran.error["id"])
    assert shell.kernels.calls == []
    assert path.read_bytes() == altered


def test_a_damaged_manifest_does_not_hide_the_others(shell: Shell) -> None:
    good, bad = stored(shell.store, a_manifest()), stored(shell.store, a_manifest())
    _manifest_file(shell, bad.id).write_bytes(b"{}")
    ran = shell.run("list")
    assert good.id[:8] in ran.out
    assert bad.id in ran.err
    assert [m["id"] for m in shell.run("list", "--json").document] == [good.id]
    assert shell.run("verify", "--json").code == 7


# -- what the acts themselves refuse -----------------------------------------------
@pytest.mark.parametrize("failure", [
    CriuMissing, CriuBroken, ModeUnavailable, NotOurKernel, CannotBeSaved, CheckpointRefused,
    OutOfSpace,
])
def test_a_save_that_fails_keeps_its_exit_code(shell: Shell, failure) -> None:
    shell.kernels.add()
    shell.kernels.failure = failure("It did not work.", "Do this.")
    check(shell.run("save", "--json"), failure.exit_code, failure.message_id)
    assert shell.store.manifests() == []


@pytest.mark.parametrize("failure", [RestoreRefused, RestoreFailed])
def test_a_restore_that_fails_exits_6(shell: Shell, failure) -> None:
    manifest = stored(shell.store, a_manifest())
    shell.kernels.failure = failure("It did not work.", "Do this.")
    check(shell.run("restore", manifest.id, "--json"), 6, failure.message_id)


def test_an_error_for_people_is_a_sentence_a_hint_and_a_log(shell: Shell) -> None:
    shell.kernels.add()
    shell.kernels.failure = CheckpointError("It did [not] work.", "Do this.", "/var/log/x.log")
    ran = shell.run("save")
    assert (ran.code, ran.out) == (5, "")
    assert ran.err.splitlines() == ["error: It did [not] work.", "hint: Do this.",
                                    "log: /var/log/x.log"]


def test_an_unexpected_error_says_how_to_see_more(shell: Shell) -> None:
    shell.kernels.add()
    shell.kernels.failure = ZeroDivisionError("division by zero")
    ran = shell.run("save", "--json")
    assert (ran.code, ran.error["id"]) == (1, "unexpected")
    assert "JUPYTER_CKPT_DEBUG=1" in ran.error["hint"]


def test_an_unexpected_error_with_debug_is_raised(shell: Shell, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_CKPT_DEBUG", "1")
    shell.kernels.add()
    shell.kernels.failure = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        shell.run("save")


@pytest.mark.parametrize(("refusal", "sentence"), [
    (None, "Nothing was saved"), (JobNotFound("There is none."), "Nothing was saved"),
    (UsageError("It has begun."), "ends by itself"),
    (AgentUnreachable("It is gone."), "not known: It is gone."),
])
def test_an_interrupt_cancels_the_save_and_exits_130(shell: Shell, refusal, sentence) -> None:
    shell.kernels.add()
    shell.kernels.failure, shell.kernels.cancel_failure = KeyboardInterrupt(), refusal
    ran = shell.run("save")
    ((_, arguments),) = shell.kernels.calls
    assert shell.kernels.cancelled == [arguments["request_id"]]
    assert ran.code == 130
    assert sentence in ran.err
    assert shell.run("save", "--json").error["code"] == 130


# -- the command as a program --------------------------------------------------------
def test_a_value_that_looks_like_an_option_is_no_option(shell: Shell) -> None:
    shell.kernels.add()
    ran = shell.run("save", "--note", "--json")
    assert ran.out.strip() == shell.store.manifests()[0].id
    assert shell.store.manifests()[0].note == "--json"


def test_help_needs_nothing_heavy() -> None:
    code = ("import sys; from jupyter_ckpt.cli.main import main\n"
            "sys.argv = ['jupyter-ckpt', '--help']; main()\n"
            "heavy = {'rich', 'zstandard', 'blake3', 'jupyter_client', 'jupyter_server', 'zmq',"
            " 'google.protobuf', 'tornado', 'traitlets'}\n"
            "print('LOADED', sorted(heavy & set(sys.modules)))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         timeout=60)
    assert "LOADED []" in ran.stdout


def test_a_reader_that_leaves_early_is_no_error(shell: Shell) -> None:
    for _ in range(3):
        stored(shell.store, a_manifest())
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run([sys.executable, "-m", "jupyter_ckpt.cli.main", "list", "--json"],
                         stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (1, "")
