"""The machine a checkpoint was made on, and whether this one will do."""

from __future__ import annotations

import os
import platform
import socket
from functools import cache
from typing import Any

from ..errors import RestoreRefused


@cache
def cpu() -> tuple[str, list[str]]:
    """Return the processor's model and feature flags."""
    model, flags = "unknown", []
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cpuinfo:
        for line in cpuinfo:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() in ("flags", "Features"):
                flags = sorted(value.split())
                break
    return model, flags


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def describe(criu_version: str) -> dict[str, Any]:
    """Return the manifest's ``host``."""
    return {
        "hostname": socket.gethostname(), "machine": platform.machine(),
        "kernel_release": platform.release(), "cpu_model": cpu()[0], "boot_id": boot_id(),
        "uid": os.getuid(), "gid": os.getgid(), "criu_version": criu_version,
    }


def check_compatible(host: dict[str, Any], cpu_flags: list[str]) -> list[str]:
    """Return warnings; raise `RestoreRefused` when this machine cannot do it."""
    if host.get("machine") != platform.machine():
        raise RestoreRefused(
            f"The checkpoint is of a {host.get('machine')} machine; "
            f"this one is {platform.machine()}.",
            "Restore it on a machine of that architecture.")
    if host.get("uid") != os.getuid():
        raise RestoreRefused(
            f"The checkpoint belongs to user id {host.get('uid')}; you are {os.getuid()}.",
            "Restore it as the user who saved it.")
    lacking = sorted(set(cpu_flags) - set(cpu()[1]))
    if lacking:
        raise RestoreRefused(
            f"This machine's processor lacks {', '.join(lacking[:6])}, which the session may use "
            f"(it was saved on: {host.get('cpu_model')}).",
            "Restore it on a machine with the same or a newer processor.")
    if host.get("kernel_release") != platform.release():
        return [f"The system's kernel is {platform.release()}; "
                f"the checkpoint was made on {host.get('kernel_release')}."]
    return []
