"""The machine a checkpoint was made on, and whether this one will do."""

from __future__ import annotations

import os
import platform
import re
import socket
from functools import cache
from typing import Any

from .refusals import Refusals


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
        "uid": os.getuid(), "gid": os.getgid(), "groups": sorted(os.getgroups()),
        "criu_version": criu_version,
    }


def check_compatible(
    host: dict[str, Any], cpu_flags: list[str], criu_version: str | None = None
) -> list[str]:
    """Return warnings; raise `RestoreRefused` with all that this machine cannot do.

    ``criu_version`` is that of the CRIU that would restore, None: do not compare.
    """
    refusals = Refusals()
    if host.get("machine") != platform.machine():
        refusals.add(
            f"The checkpoint is of a {host.get('machine')} machine; "
            f"this one is {platform.machine()}.",
            "Restore it on a machine of that architecture.")
    if host.get("uid") != os.getuid():
        refusals.add(
            f"The checkpoint belongs to user id {host.get('uid')}; you are {os.getuid()}.",
            "Restore it as the user who saved it.")
    lacking = sorted(set(cpu_flags) - set(cpu()[1]))
    if lacking and host.get("machine") == platform.machine():
        refusals.add(
            f"This machine's processor lacks {', '.join(lacking[:6])}, which the session may use "
            f"(it was saved on: {host.get('cpu_model')}).",
            "Restore it on a machine with the same or a newer processor.")
    saved_by = str(host.get("criu_version", ""))
    if criu_version and _release(criu_version) < _release(saved_by):
        refusals.add(
            f"The checkpoint was made by CRIU {saved_by}; the CRIU here is older ({criu_version}).",
            "Run 'jupyter ckpt setup', or set JUPYTER_CKPT_CRIU to a newer one.")
    refusals.raise_if_any()
    warnings = []
    if host.get("kernel_release") != platform.release():
        warnings.append(f"The system's kernel is {platform.release()}; "
                        f"the checkpoint was made on {host.get('kernel_release')}.")
    lost = sorted(set(host.get("groups", ())) - {*os.getgroups(), os.getgid()})
    if lost and os.getuid() != 0:
        warnings.append(f"You do not belong to group(s) {', '.join(map(str, lost))} any more, "
                        "as the session did.")
    return warnings


def _release(version: str) -> tuple[int, ...]:
    """Return (major, minor) of a CRIU version; images of one release stay readable in it."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
