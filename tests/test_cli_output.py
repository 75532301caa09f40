from __future__ import annotations

import io
import json
import sys

import click
import pytest
from fake_kernels import FakeKernels, a_manifest, stored

from jupyter_ckpt.cli.list import short_ids
from jupyter_ckpt.cli.main import main
from jupyter_ckpt.cli.output import Screen
from jupyter_ckpt.errors import CriuMissing
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.store import Store


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def to_terminal(monkeypatch) -> Terminal:
    """Make standard error a terminal from here on."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def a_job(done_bytes: int) -> Job:
    return Job(id="request-1", kind="checkpoints", state="dumping", done_bytes=done_bytes,
               total_bytes=100_000_000)


@pytest.mark.parametrize("as_json", [False, True])
def test_progress_is_drawn_on_a_terminal_and_wiped(monkeypatch, capsys, as_json) -> None:
    terminal = to_terminal(monkeypatch)
    with Screen(as_json).progress("Saving") as on_progress:
        for done in range(0, 100_000_001, 10_000_000):
            on_progress(a_job(done))
    assert "Saving memory" in terminal.getvalue()
    assert "100 MB of 100 MB" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")
    assert capsys.readouterr().out == ""


def test_progress_elsewhere_is_silent(capsys) -> None:
    with Screen().progress("Saving") as on_progress:
        on_progress(a_job(1))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_error_on_a_terminal_is_red(monkeypatch) -> None:
    terminal = to_terminal(monkeypatch)
    Screen().fail(CriuMissing("No CRIU was found.", "Run 'jupyter ckpt setup'."))
    text = terminal.getvalue()
    assert "\x1b[1;31merror: \x1b[0mNo CRIU was found." in text
    assert "\x1b[36mhint: \x1b[0mRun 'jupyter ckpt setup'." in text


def test_long_sentences_are_not_cut(monkeypatch) -> None:
    terminal = to_terminal(monkeypatch)
    message = "word " * 100 + "end."
    Screen().fail(CriuMissing(message))
    assert message in terminal.getvalue()


def test_with_json_nobody_talks(capsys) -> None:
    screen = Screen(as_json=True)
    screen.say("a")
    screen.done("b")
    screen.next_step("c", "d")
    screen.warn(["e"])
    screen.document({"ü": 1})
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"ü": 1}, "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_is_valid_whatever_standard_output_can_write(monkeypatch, encoding) -> None:
    names = {"path": "/data/ü 😀/\udcff.ipynb"}
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(
        written, encoding=encoding, errors="backslashreplace"))
    Screen(as_json=True).document(names)
    assert json.loads(written.getvalue()) == names


def test_short_ids_grow_until_they_differ() -> None:
    ids = ["aaaaaaaa0000", "aaaaaaaa1000", "bbbbbbbb0000"]
    assert short_ids(ids) == {ids[0]: "aaaaaaaa0", ids[1]: "aaaaaaaa1", ids[2]: "bbbbbbbb0"}
    assert short_ids([]) == {}


def listed(monkeypatch, columns: int, *words: str) -> list[str]:
    """Return the lines that ``jupyter ckpt`` draws on a terminal so wide, without colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(list(words), kernels=FakeKernels()) == 0
    return click.unstyle(stream.getvalue()).splitlines()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_long_names_are_shortened_where_the_terminal_is_narrow(
    tmp_path, monkeypatch, capsys, columns
) -> None:
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    store = Store.open(Locations.default().store_dir)
    long = stored(store, a_manifest(name="n" * 100, pause_s=200.0, notebook={
        "path": "/data/" + "deep/" * 20 + "my  job.ipynb", "sha256": ""}))
    short = stored(store, a_manifest(name="short", note="why\nit " + "was made " * 50 + "so"))
    lines = listed(monkeypatch, columns, "list")
    assert max(map(len, lines)) <= max(columns, 80)
    text = "\n".join(lines)
    assert long.id[:8] in text and short.id[:8] in text and "short" in text
    assert "nnn…" in text and "3 min 20 s" in text
    assert len(lines) == 3
    monkeypatch.undo()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    assert main(["list"], kernels=FakeKernels()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines) == (3, [line.rstrip() for line in lines])
    for checkpoint in (long, short):
        assert any(line.startswith(checkpoint.id[:8]) for line in lines)
    text = "\n".join(lines)
    assert "n" * 100 in text and "deep/my  job.ipynb" in text and "made so" in text
