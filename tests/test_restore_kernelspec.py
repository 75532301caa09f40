"""A checkpoint takes the place of a kernel of its own kernelspec only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_kernels import KERNEL_ID, a_manifest

from jupyter_ckpt import kernels
from jupyter_ckpt.errors import RestoreRefused
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.record import Record, write_record


def test_living_kernel_of_another_kernelspec_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    locations = Locations.default()
    folder = locations.folder(KERNEL_ID)
    folder.mkdir(mode=0o700, parents=True)
    write_record(folder, Record(KERNEL_ID, kernel_name="ir", kernel=ProcessId.of(os.getpid())))
    with pytest.raises(RestoreRefused, match=r"python3 kernel .* ir kernel") as refused:
        kernels.restore(locations, a_manifest(), kernel_id=KERNEL_ID, in_place=True)
    assert "--new" in refused.value.hint
    assert [path.name for path in folder.iterdir()] == ["record.json"]  # no agent was started
