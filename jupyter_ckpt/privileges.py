"""Which privileges a kernel's processes can be saved with here, and why not more.

============ ============================================================
``root``      CAP_SYS_ADMIN: a box of namespaces, no limits known
``rootless``  unprivileged user namespaces: a box of one's own
``caps``      only criu is privileged (CAP_CHECKPOINT_RESTORE): no box, the
              same pids must be free when restoring
``none``      nothing of this: kernels run and cannot be saved
============ ============================================================

Each mode is tried, not guessed: containers, security modules and sysctls
forbid these things in too many ways to enumerate.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .engine.criu_find import CriuBinary
from .errors import CheckpointError, ModeUnavailable, UsageError
from .native_build import native_path
from .procfs import status_lines

MODE_VARIABLE = "JUPYTER_CKPT_MODE"
MODES = ("root", "rootless", "caps")
CHOICES = ("auto", *MODES, "none")
TRY_TIMEOUT_S = 20.0

CAP_SETPCAP = 8
CAP_SYS_ADMIN = 21
CAP_CHECKPOINT_RESTORE = 40
FILE_CAPABILITIES = "cap_checkpoint_restore,cap_setpcap+eip"


@dataclass(frozen=True)
class Mode:
    """The privilege mode to use; `rejected` says why each better one is not."""

    name: str
    rejected: dict[str, str] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """One sentence for each rejected mode; that none is wanted; empty when all is well."""
        if self.name == "none" and not self.rejected:
            return f"{MODE_VARIABLE} is 'none'."
        return " ".join(f"{name}: {reason}." for name, reason in self.rejected.items())


def decide_mode(criu: CriuBinary | None, wanted: str | None = None) -> Mode:
    """Return the best privilege mode that works here.

    `wanted` (else ``JUPYTER_CKPT_MODE``, else ``auto``) forces one. Raises
    `ModeUnavailable` when the forced one cannot be had, `UsageError` when it
    is no mode. Takes a few milliseconds.
    """
    name = wanted or os.environ.get(MODE_VARIABLE) or "auto"
    if name not in CHOICES:
        raise UsageError(f"{name!r} is not a privilege mode.",
                         f"Set {MODE_VARIABLE} to one of: {', '.join(CHOICES)}.")
    if name == "none":
        return Mode("none")
    if name != "auto":
        reason = why_not(name, criu)
        if reason:
            raise ModeUnavailable(f"The mode {name!r}, set in {MODE_VARIABLE}, cannot be had: "
                                  f"{reason}.", _HINTS[name])
        return Mode(name)
    rejected: dict[str, str] = {}
    for mode in MODES:
        reason = why_not(mode, criu)
        if not reason:
            return Mode(mode, rejected)
        rejected[mode] = reason
    return Mode("none", rejected)


_HINTS = {
    "root": f"Run as root with CAP_SYS_ADMIN, or set {MODE_VARIABLE}=auto.",
    "rootless": "Have the administrator allow unprivileged user namespaces "
                "(sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=15000; on "
                "Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0).",
    "caps": f"Have the administrator run `setcap {FILE_CAPABILITIES} CRIU` on the criu that "
            "`jupyter ckpt doctor` names; in a container add --cap-add CHECKPOINT_RESTORE.",
}


def hint_for(mode: str) -> str:
    """Return what to do to get `mode`."""
    return _HINTS[mode]


def why_not(mode: str, criu: CriuBinary | None) -> str:
    """Return why `mode` cannot be had, without a final stop; empty when it can."""
    if criu is None:
        return "there is no criu that works"
    if mode == "root":
        if not _has(CAP_SYS_ADMIN):
            return "this user lacks CAP_SYS_ADMIN (is not root, or root in a restricted container)"
        return _why_no_box([])
    if mode == "rootless":
        return _why_no_box(["--user"])
    return _why_no_caps(criu.path)


def _has(capability: int, which: str = "CapEff") -> bool:
    value = status_lines(os.getpid()).get(which, "0")
    return bool(int(value, 16) >> capability & 1)


def _why_no_box(options: list[str]) -> str:
    """Make a box as a kernel would get it, and end it again."""
    try:
        argv = [str(native_path("ckpt-box")), "init", *options]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=TRY_TIMEOUT_S, check=False, start_new_session=True)
    except CheckpointError as error:
        return error.message.rstrip(".")
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(done.stdout), signal.SIGKILL)
        return ""
    reason = done.stderr.strip().removeprefix("ckpt-box: ") or f"exit {done.returncode}"
    what = "an unprivileged user namespace" if options else "a box of namespaces"
    return f"{what} cannot be made ({reason})"


def _why_no_caps(criu: Path) -> str:
    """Return why criu itself would not be privileged enough, empty when it is."""
    if _has(CAP_CHECKPOINT_RESTORE):
        return _why_check_fails(criu)
    if not _has(CAP_CHECKPOINT_RESTORE, "CapBnd"):
        return "CAP_CHECKPOINT_RESTORE is forbidden here (a container without it)"
    if status_lines(os.getpid()).get("NoNewPrivs") == "1":
        return "programs started here may gain no privileges (no_new_privs is set)"
    granted = file_capabilities(criu)
    if not granted >> CAP_CHECKPOINT_RESTORE & 1 or not granted >> CAP_SETPCAP & 1:
        return f"{criu} has no file capabilities {FILE_CAPABILITIES}"
    if os.statvfs(criu).f_flag & os.ST_NOSUID:
        return f"{criu} lies on a file system mounted nosuid, where file capabilities do not count"
    return _why_check_fails(criu)


def file_capabilities(path: Path) -> int:
    """Return the permitted file capabilities of a program as a bit mask."""
    try:
        raw = os.getxattr(path, "security.capability")
    except OSError:
        return 0  # none, or a file system without them
    if len(raw) < 20:
        return 0
    # struct vfs_cap_data (linux/capability.h): magic, then permitted and
    # inheritable for the lower and the upper 32 capabilities, little-endian.
    _magic, low, _inherited, high, _inherited_high = struct.unpack_from("<5I", raw)
    return int(low | high << 32)


def _why_check_fails(criu: Path) -> str:
    try:
        done = subprocess.run(
            [str(criu), "check", "--unprivileged"], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=TRY_TIMEOUT_S, check=False,
            cwd="/", start_new_session=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{criu} does not start: {error}"
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if "Error" in line] or ["it says nothing"]
    return f"`criu check --unprivileged` fails: {said[-1].split('): ')[-1].strip()}"
