"""Standard output and standard error that cannot be written, or are not there."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_kernels import a_manifest, stored

from jupyter_ckpt.cli import streams
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.store import Store

LOST = 74
PROGRAM = """\
import sys
from fake_kernels import FakeKernels
from jupyter_ckpt.cli.main import main
kernels = FakeKernels()
kernels.add()
sys.exit(main(sys.argv[1:], kernels=kernels))
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("JUPYTER_CKPT_DEBUG", raising=False)
    return Store.open(Locations.default().store_dir)


def run(redirection: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", PROGRAM, *words],
        capture_output=True, text=True, timeout=60)


def test_streams_that_are_no_files_are_left_as_they_are() -> None:
    """As where a program runs a command of ours and keeps what it prints."""
    for stream in (io.TextIOWrapper(io.BytesIO()), io.StringIO()):
        assert streams._taken(stream, 1) is stream


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_save_whose_id_cannot_be_printed_tells_it_elsewhere(store: Store, as_json) -> None:
    ran = run(">/dev/full", "save", *as_json)
    (manifest,) = store.manifests()
    last = ran.stderr.splitlines()[-1]
    assert last == (f"error: Checkpoint {manifest.id} was saved, but the output could not be "
                    "written: No space left on device.")
    assert ran.returncode == LOST
    assert len(ran.stderr.splitlines()) == (1 if as_json else 3)


@pytest.mark.parametrize("words", [
    ["list"], ["list", "--json"], ["ps"], ["ps", "--json"], ["quota"], ["--help"],
    ["--version"], ["save", "--help"],
])
def test_an_answer_that_cannot_be_written_is_told_in_a_sentence(store: Store, words) -> None:
    stored(store, a_manifest())
    ran = run(">/dev/full", *words)
    assert ran.returncode == LOST
    assert ran.stderr.splitlines()[-1] == (
        "error: The output could not be written: No space left on device.")
    assert "Traceback" not in ran.stderr


def test_an_error_that_cannot_be_printed_as_json_is_told_elsewhere(store: Store) -> None:
    ran = run(">/dev/full", "show", "abcd", "--json")
    assert ran.returncode == 3
    assert "There is no checkpoint 'abcd'" in ran.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
def test_talk_that_cannot_be_heard_is_no_failure(store: Store, redirection) -> None:
    ran = run(redirection, "save")
    assert (ran.returncode, ran.stdout.strip()) == (0, store.manifests()[0].id)
    assert run(redirection, "show", "nothere").returncode == 3


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_nobody_wants_is_no_failure(store: Store, redirection) -> None:
    for words in (["save"], ["save", "--json"], ["list"], ["list", "--json"], ["ps"], ["--help"]):
        ran = run(redirection, *words)
        assert (ran.returncode, ran.stdout) == (0, "")
        assert "error" not in ran.stderr
    assert len(store.manifests()) == 2


def test_a_closed_stream_is_not_taken_by_a_file(store: Store) -> None:
    """Or whoever printed to standard error would print into that file."""
    program = ("import os, sys\nfrom jupyter_ckpt.cli.main import main\nmain(['list'])\n"
               "print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)], "
               "file=open(sys.argv[1], 'w'))")
    told = Path(os.environ["JUPYTER_DATA_DIR"]) / "told"
    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program,
                    str(told)], check=True, timeout=60)
    assert json.loads(told.read_text().replace("'", '"')) == ["/dev/null"] * 3
