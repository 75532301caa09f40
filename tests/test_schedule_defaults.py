"""The configured schedule of new kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import server_fakes
from jupyter_harness import Home, Server


@pytest.mark.parametrize(("configured", "schedule"), [
    ('c.CheckpointApp.every = "10m"\nc.CheckpointApp.keep = 3\nc.CheckpointApp.keep_daily = 7',
     {"every_s": 600.0, "cells": None, "keep": 3, "keep_hourly": None, "keep_daily": 7}),
    ("c.CheckpointApp.cells = 20\nc.CheckpointApp.keep_hourly = 24",
     {"every_s": None, "cells": 20, "keep": None, "keep_hourly": 24, "keep_daily": None}),
    ("", None),
    ("c.CheckpointApp.keep = 3", None),
    ('c.CheckpointApp.every = "soon"', None),
])
def test_new_kernels_have_the_configured_schedule(
    tmp_path: Path, configured: str, schedule: dict[str, object] | None
) -> None:
    home = Home(tmp_path / "home")
    home.configure(f"{server_fakes.CONFIGURATION}\n{configured}\n")
    server = Server(home)
    try:
        kernel = server.ok("POST", "/api/kernels", {})["id"]
        record = home.record(kernel)
        assert record is not None
        assert record["schedule"] == schedule
        if "soon" in configured:
            assert "'soon' is not a span of time" in server.tail()
        else:
            assert "Kernels start without automatic checkpoints" not in server.log.read_text()
        server.request("DELETE", f"/api/kernels/{kernel}")
    finally:
        server.stop()
