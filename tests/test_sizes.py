"""Amounts of bytes and shares of memory, however they are spelled."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_ckpt.errors import UsageError
from jupyter_ckpt.sizes import Threshold, parse_size, parse_threshold


@pytest.mark.parametrize(("text", "size_bytes"), [
    ("20G", 20_000_000_000), ("500 MB", 500_000_000), ("1.5t", 1_500_000_000_000),
    ("20GiB", 20 << 30), ("2Ki", 2048), ("1000", 1000), ("7 b", 7), (" 1k ", 1000)])
def test_size_is_read(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", [
    "", "G", "-1G", "0", "0.0001k", "1e9", "1 2", "20 X", "\u0661G", "9" * 30, "5%", None, 5])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(("text", "threshold"), [
    ("5%", Threshold(share=0.05)), ("100 %", Threshold(share=1.0)),
    ("2G", Threshold(size_bytes=2_000_000_000)), ("off", None), (" OFF", None)])
def test_threshold_is_read(text: str, threshold: Threshold | None) -> None:
    assert parse_threshold(text) == threshold


@pytest.mark.parametrize("text", ["", "0%", "101%", "%", "5 percent", "-5%", "none", None, 5])
def test_what_is_no_threshold_is_refused(text: Any) -> None:
    with pytest.raises(UsageError):
        parse_threshold(text)


def test_threshold_in_bytes() -> None:
    assert Threshold(share=0.05).of(1000) == 50
    assert Threshold(size_bytes=7).of(1000) == 7
