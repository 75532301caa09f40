from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pytest

from jupyter_ckpt.cli.places import is_below, shown_path
from jupyter_ckpt.cli.units import age, span
from jupyter_ckpt.sizes import size

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(("size_bytes", "text"), [
    (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (9_940, "9.9 kB"), (9_960, "10 kB"),
    (999_600, "1.0 MB"), (212_000_000, "212 MB"), (1_500_000_000, "1.5 GB"), (2.5e12, "2.5 TB"),
])
def test_size_of_bytes_has_at_most_three_digits(size_bytes: float, text: str) -> None:
    assert size(size_bytes) == text


@pytest.mark.parametrize(("span_s", "text"), [
    (0.0, "0 ms"), (0.085, "85 ms"), (0.9996, "1.0 s"), (2.14, "2.1 s"), (59.99, "1 min 0 s"),
    (200, "3 min 20 s"),
])
def test_span_is_readable(span_s: float, text: str) -> None:
    assert span(span_s) == text


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "just now"), (-30, "just now"), (12, "12 s ago"), (61, "1 min ago"), (7300, "2 h ago"),
    (86400, "1 day ago"), (5 * 86400, "5 days ago"), (90 * 86400, "2025-12-01"),
])
def test_age_is_readable(seconds: float, text: str) -> None:
    then = (NOW - timedelta(seconds=seconds)).isoformat(timespec="milliseconds")
    assert age(then.replace("+00:00", "Z"), NOW) == text


def test_age_of_something_else_is_itself() -> None:
    assert age("yesterday") == "yesterday"


def test_path_below_here_is_shown_relative(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert shown_path(str(tmp_path / "a" / "b.ipynb")) == "a/b.ipynb"
    assert shown_path("/home/someone/x.ipynb") == "~/x.ipynb"
    assert shown_path("/data/x.ipynb") == "/data/x.ipynb"
    assert shown_path(None) == ""


def test_below_follows_links_and_knows_siblings(tmp_path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "rooted").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert is_below(str(tmp_path / "link" / "n.ipynb"), str(tmp_path / "root"))
    assert not is_below(str(tmp_path / "rooted" / "n.ipynb"), str(tmp_path / "root"))
    assert is_below("/anything", "/")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "elsewhere")
    assert is_below(str(tmp_path / "root" / "out" / "n.ipynb"), str(tmp_path / "root"))
    assert is_below(str(tmp_path / "link" / "out" / "n.ipynb"), str(tmp_path / "link"))
    through = os.path.join(tmp_path, "root", "out", "..", "n.ipynb")  # a Path would shorten it
    assert not is_below(through, str(tmp_path / "root"))
