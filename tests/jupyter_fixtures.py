"""Fixtures for tests with real Jupyter servers; a plugin of the modules that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_fakes
from checkpointable import need_checkpoints
from jupyter_harness import Home, Server, StartServer


@pytest.fixture
def fake_home(tmp_path: Path) -> Home:
    """A user whose servers have the stand-in for agents and CRIU."""
    home = Home(tmp_path / "home")
    home.configure(server_fakes.CONFIGURATION)
    return home


@pytest.fixture
def real_home(tmp_path: Path) -> Home:
    """A user whose servers have real agents, boxes and CRIU."""
    need_checkpoints()
    return Home(tmp_path / "home")


@pytest.fixture(params=["fake", "real"])
def home(request: pytest.FixtureRequest) -> Home:
    """Both: what is promised holds for the stand-in and for the real thing."""
    found: Home = request.getfixturevalue(f"{request.param}_home")
    return found


@pytest.fixture
def start() -> Iterator[StartServer]:
    """Starts servers and ends them, and every kernel they have left, after the test."""
    started: list[Server] = []

    def start_one(home: Home, *arguments: str, **more: Any) -> Server:
        server = Server(home, *arguments, **more)
        started.append(server)
        return server

    yield start_one
    for server in started:
        server.stop()
    for home in {id(server.home): server.home for server in started}.values():
        home.end_all_kernels()
