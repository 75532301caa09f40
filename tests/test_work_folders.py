"""Work folders: what an act leaves there goes, also when somebody still writes into it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jupyter_ckpt.agent import tools
from jupyter_ckpt.agent.tools import remove_work

NO_PAUSES = (0.0, 0.0, 0.0)


class LateCopy:
    """Stands for a copy that hung, was given up, and writes `times` more."""

    def __init__(self, times: int) -> None:
        self.times = times

    def rmtree(self, folder: Path, ignore_errors: bool) -> None:
        rmtree(folder, ignore_errors)
        if self.times > 0:
            self.times -= 1
            (folder / "copies").mkdir(parents=True)


rmtree = shutil.rmtree


def test_folder_that_is_written_to_for_some_time_yet_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools.shutil, "rmtree", LateCopy(2).rmtree)
    assert remove_work(tmp_path / "work", NO_PAUSES)
    assert not (tmp_path / "work").exists()


def test_folder_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tools.shutil, "rmtree", LateCopy(10).rmtree)
    assert not remove_work(tmp_path / "work", NO_PAUSES)
    assert str(tmp_path / "work") in caplog.text
