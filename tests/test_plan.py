"""What a schedule may be, however it is spelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyter_ckpt.errors import RecordCorrupt, UsageError
from jupyter_ckpt.inkernel import schedule as in_kernel
from jupyter_ckpt.plan import (
    Schedule,
    changed,
    keeping,
    of_checkpoint,
    parse_span,
    read_changes,
    sentence,
    shown,
    span_text,
)
from jupyter_ckpt.record import Record, read_record, write_record


@pytest.mark.parametrize(("text", "seconds"), [
    ("30s", 30), ("10m", 600), ("10 min", 600), ("2h", 7200), ("1d", 86400), ("90", 90),
    ("1.5h", 5400), (" 10m ", 600)])
def test_span_is_read(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "1e3", "inf", "nan", "10 weeks", "1:30",
                                  "\u0661\u0660m", "9" * 40, "1.", None, 5])
def test_what_is_no_span_is_refused(text: Any) -> None:
    with pytest.raises(UsageError, match="span of time"):
        parse_span(text)


def test_what_is_kept_by_default_is_no_schedule_but_part_of_one_that_is_set() -> None:
    kept = keeping({"keep": 3, "keep_daily": 7})
    assert changed(kept, {"every": "10m"}) == Schedule(600.0, None, 3, None, 7)
    assert changed(kept, {"cells": 4, "keep": 9}) == Schedule(None, 4, 9, None, 7)
    for nothing in ({"off": True}, {}, {"every": None}):
        assert changed(kept, nothing) is None
    with pytest.raises(UsageError, match="without a schedule"):
        changed(kept, {"keep": 9})
    for senseless in ({"keep": 0}, {"every": "10m"}, {"kept": 1}, [], {"off": True}):
        with pytest.raises(UsageError):
            keeping(senseless)


@pytest.mark.parametrize("seconds", [10, 30, 90, 600, 5400, 86400, 12.5])
def test_span_is_written_as_it_is_read(seconds: float) -> None:
    assert parse_span(span_text(seconds)) == seconds


@pytest.mark.parametrize("changes", [
    [], "10m", 5, {"hourly": 1}, {"every_s": 4.9}, {"every_s": float("nan")},
    {"every_s": float("inf")}, {"every_s": True}, {"every_s": "600"}, {"every_s": 2592001},
    {"cells": 0}, {"cells": True}, {"cells": "5"}, {"cells": 10001}, {"keep": 0},
    {"keep": 1001}, {"keep_hourly": -1}, {"keep_daily": 1.0}, {"keep_daily": 1001}, {"off": 1},
    {"off": True, "keep": 1}, {"every": "10m", "every_s": 600},
])
def test_senseless_changes_are_refused(changes: Any) -> None:
    with pytest.raises(UsageError):
        read_changes(changes)


def test_what_is_left_out_stays_and_null_takes_away() -> None:
    first = changed(None, {"every": "10m", "keep": 2})
    assert first == Schedule(600.0, None, 2)
    both = changed(first, {"cells": 3})
    assert both == Schedule(600.0, 3, 2)
    assert changed(both, {"every_s": None}) == Schedule(None, 3, 2)
    assert changed(both, {}) == both
    assert changed(both, {"off": True}) is None
    assert changed(both, {"off": False}) == both
    assert changed(both, {"every_s": None, "cells": None}) is None


@pytest.mark.parametrize("name", ["keep", "keep_hourly", "keep_daily"])
def test_keep_alone_is_no_schedule(name: str) -> None:
    with pytest.raises(UsageError, match="without a schedule"):
        changed(None, {name: 3})


def test_sentence_for_people() -> None:
    assert sentence(Schedule().to_dict()) == "No automatic checkpoints."
    assert sentence({"every_s": 90, "cells": 1, "keep": 5}) == (
        "Automatic checkpoints every 90s and after every cell; the last 5 are kept.")
    assert sentence(shown(Schedule(90.0, None, 2, 24, 1))) == (
        "Automatic checkpoints every 90s; the last 2 are kept, and the newest of each of the "
        "last 24 hours and 1 day.")


def test_both_sides_say_the_same() -> None:
    for schedule in (None, Schedule(90.0), Schedule(None, 1, 3, 0, 7), Schedule(60.0, 5, 1, 1, 2)):
        assert in_kernel.sentence(shown(schedule)) == sentence(shown(schedule))


def test_defaults_are_shown() -> None:
    assert shown(Schedule(90.0)) == {
        "every_s": 90.0, "cells": None, "keep": 5, "keep_hourly": 0, "keep_daily": 0}
    assert set(shown(None).values()) == {None}


def test_record_keeps_the_schedule(tmp_path: Path) -> None:
    folder = tmp_path / "kernel-0001"
    folder.mkdir()
    record = Record("kernel-0001", schedule=Schedule(600.0, 5))
    write_record(folder, record)
    assert read_record(folder) == record
    text = json.loads((folder / "record.json").read_text())
    assert text["schedule"] == {"every_s": 600.0, "cells": 5, "keep": None,
                                "keep_hourly": None, "keep_daily": None}
    del text["schedule"]  # one written before there were schedules
    (folder / "record.json").write_text(json.dumps(text))
    assert read_record(folder).schedule is None


def test_record_with_a_senseless_schedule_is_corrupt() -> None:
    with pytest.raises(RecordCorrupt):
        Record.from_dict({"kernel_id": "kernel-0001", "schedule": {"every_s": 0.1}})


@pytest.mark.parametrize(("data", "schedule", "unknown"), [
    (None, None, []),
    ({"every_s": 600.0, "cells": None, "keep": 3}, Schedule(600.0, None, 3), []),
    ({"every_s": 600.0, "weekly": 4, "at": "noon"}, Schedule(600.0), ["at", "weekly"]),
    ({"every_s": None, "cells": None, "keep": 3, "at": "noon"}, None, ["at"])])
def test_schedule_of_a_later_version_goes_on_with_what_is_known(
    data: Any, schedule: Schedule | None, unknown: list[str]
) -> None:
    assert of_checkpoint(data) == (schedule, unknown)


@pytest.mark.parametrize("data", [
    [], "10m", {"cells": "many"}, {"every_s": 1}, {"every_s": 600, "keep": -1, "at": "noon"}])
def test_senseless_schedule_of_a_checkpoint_is_refused(data: Any) -> None:
    with pytest.raises(UsageError):
        of_checkpoint(data)
