"""What an agent tells of its kernel; nothing is changed by asking."""

from __future__ import annotations

from typing import Any

from ..protocol import API_VERSION, Job
from .core import Agent
from .kernel_link import LINK_TIMEOUT_S


def status(agent: Agent, jobs: list[Job]) -> dict[str, Any]:
    """Return what ``GET /status`` answers."""
    kernel = agent.kernel
    processes = kernel.processes() if kernel is not None else []
    return {
        "api": API_VERSION, "kernel_id": agent.folder.name,
        "record": kernel.record.to_dict() if kernel is not None else None,
        "state": agent.acting or ("running" if kernel is not None else "empty"),
        "processes": processes, "memory_bytes": sum(p["rss_bytes"] for p in processes),
        "jobs": [job.to_dict() for job in jobs],
        "injected": kernel.record.injected if kernel is not None else False,
    }


def running(agent: Agent) -> dict[str, Any]:
    """Return the running cell with its outputs; nulls when nobody can tell."""
    answer = agent.need_kernel().link.ask("running", LINK_TIMEOUT_S)
    return answer or {"busy": None, "running": None, "recent": []}


def listing(agent: Agent) -> list[dict[str, Any]]:
    """Return the manifests of the kernel and its notebook, newest first."""
    record = agent.need_kernel().record
    return [
        m.to_dict() for m in agent.tools.store().manifests()
        if m.kernel.get("id") == record.kernel_id
        or (m.notebook is not None and m.notebook.get("path") == record.notebook)]
