"""The small C programs beside the kernel: where they are, how they are made.

=============== ==============================================================
``ckpt-box``    PID 1 of a box, the way into it, the root of the tree, the
                tracer of a dump
``boxshim.so``  preloaded into the kernel's tree (see its source)
``criushim.so`` preloaded into criu: hands its tracing over to that tracer
=============== ==============================================================

A wheel or an editable install brings them ready in ``jupyter_ckpt/_native``.
Where these are missing or do not run here, `build` makes them again from the
sources that every installation carries, if need be into
``<sys.prefix>/share/jupyter/ckpt/native/<hash of the sources>``: keyed by the
hash, so that an upgraded package never uses what an older one left there.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import NotPossibleHere

PACKAGE = Path(__file__).resolve().parent
PREBUILT = PACKAGE / "_native"
COMPILE_TIMEOUT_S = 120.0
RUN_TIMEOUT_S = 20.0
NO_COMPILER_HINT = (
    "Install a C compiler with the C library's headers (Debian, Ubuntu: `apt install gcc "
    "libc6-dev`; Fedora: `dnf install gcc glibc-devel`), then run `jupyter ckpt setup` again."
)


@dataclass(frozen=True)
class Product:
    """One thing to compile; each of `flag_sets` is tried until one succeeds."""

    name: str
    sources: tuple[str, ...]
    flag_sets: tuple[tuple[str, ...], ...]
    trailing: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Everything that it is made from."""
        return self.sources + self.headers


PRODUCTS = (
    # Static: a box starts in about a millisecond, whatever the kernel's libraries.
    Product("ckpt-box", ("box.c", "tracer.c", "tasks.c", "putback.c", "sockets.c"),
            (("-O2", "-static"), ("-O2",)), headers=("guard.h", "tracer.h")),
    Product("boxshim.so", ("boxshim.c",),
            (("-O2", "-shared", "-fPIC", "-fvisibility=hidden"),), ("-ldl", "-lpthread")),
    # Without the C library: criu may bring an older one than this machine's.
    Product("criushim.so", ("criushim.c",),
            (("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-nostdlib",
              "-fno-stack-protector"),), headers=("guard.h",)),
)


class NativeBuildFailed(NotPossibleHere):
    """The C programs cannot be compiled here."""

    message_id = "native-build-failed"


class NativeMissing(NotPossibleHere):
    """A C program that is needed was never compiled here."""

    message_id = "native-missing"


def native_path(name: str) -> Path:
    """Return the path of the product `name`; raises `NativeMissing`."""
    for folder in (_own_folder(), PREBUILT):
        if folder is not None and (folder / name).is_file():
            return folder / name
    raise NativeMissing(
        f"The program `{name}` that comes with jupyter_ckpt is not built here.",
        "Run `jupyter ckpt setup`.",
    )


def sources_folder() -> Path:
    """Return the folder of the C sources: the wheel's, else the checkout's."""
    for folder in (PACKAGE / "native_sources", PACKAGE.parent / "native"):
        if all((folder / name).is_file() for product in PRODUCTS for name in product.files):
            return folder
    raise NativeBuildFailed(
        "This installation of jupyter_ckpt lacks its C sources.",
        "Install it again: `pip install --force-reinstall jupyter_ckpt`.",
    )


def build(force: bool = False, into: Path | None = None) -> list[Path]:
    """Compile what is missing, older than its source or does not run here.

    Called by ``jupyter ckpt setup`` and, with `into`, by the build of a wheel.
    Returns the products' paths. Raises `NativeBuildFailed`; the products that
    were there before are then unchanged.
    """
    sources = sources_folder()
    if not force and into is None:
        found = [_usable(product, sources) for product in PRODUCTS]
        if all(found):
            return [path for path in found if path is not None]
    compiler = _compiler()
    target = into or _target_folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target) as scratch:
            fresh = [_compile(compiler, sources, product, Path(scratch)) for product in PRODUCTS]
            for path in fresh:
                path.replace(target / path.name)
    except OSError as error:
        raise NativeBuildFailed(
            f"The C programs cannot be written to {target}: {error.strerror}.",
            "Make that folder writable, or use a Python environment of your own.",
        ) from error
    return [target / product.name for product in PRODUCTS]


def problems() -> list[str]:
    """Return one sentence for each product that is missing or does not run."""
    found = []
    for product in PRODUCTS:
        try:
            path = native_path(product.name)
        except NativeMissing as error:
            found.append(error.message)
            continue
        reason = _why_broken(product, path)
        if reason:
            found.append(f"{path} does not work here: {reason}.")
    return found


@functools.cache
def _own_folder() -> Path | None:
    """Return where `setup` puts what it compiles for exactly these sources."""
    try:
        sources = sources_folder()
        text = b"\0".join(
            (sources / name).read_bytes() for product in PRODUCTS for name in product.files)
    except (OSError, NativeBuildFailed):
        return None
    digest = hashlib.sha256(text).hexdigest()[:16]
    return Path(sys.prefix, "share", "jupyter", "ckpt", "native", digest)


def _target_folder() -> Path:
    """Return the package's own folder if it may be written, else the prefix's."""
    parent = PREBUILT if PREBUILT.is_dir() else PACKAGE
    if os.access(parent, os.W_OK):
        return PREBUILT
    own = _own_folder()
    assert own is not None  # build() has already found the sources
    return own


def _usable(product: Product, sources: Path) -> Path | None:
    try:
        path = native_path(product.name)
        if path.stat().st_mtime < max((sources / name).stat().st_mtime for name in product.files):
            return None
    except (NativeMissing, OSError):
        return None
    return None if _why_broken(product, path) else path


def _why_broken(product: Product, path: Path) -> str:
    """Return why `path` does not run on this system, empty when it does."""
    if product.name.endswith(".so"):
        command, extra = ["/bin/true"], {"LD_PRELOAD": str(path)}
    else:
        command, extra = [str(path)], {}
    try:
        done = subprocess.run(
            command, env={**os.environ, **extra}, capture_output=True, text=True,
            errors="replace", stdin=subprocess.DEVNULL, timeout=RUN_TIMEOUT_S, check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if "ld.so" in done.stderr or "GLIBC" in done.stderr or done.returncode < 0:
        return done.stderr.strip() or f"ended by signal {-done.returncode}"
    return ""


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")):
        found = shutil.which(name)
        if found:
            return found
    raise NativeBuildFailed("There is no C compiler on this system.", NO_COMPILER_HINT)


def _compile(compiler: str, sources: Path, product: Product, folder: Path) -> Path:
    """Compile one product into `folder`; raises `NativeBuildFailed`."""
    output = folder / product.name
    first_error = ""
    for flags in product.flag_sets:
        command = [compiler, *flags, "-Wall", "-o", str(output),
                   *(str(sources / name) for name in product.sources), *product.trailing]
        error = _run_compiler(command)
        if error is None:
            output.chmod(0o755)
            return output
        first_error = first_error or error
    raise NativeBuildFailed(
        f"Compiling {product.sources[0]} with {compiler} failed: {first_error}", NO_COMPILER_HINT
    )


def _run_compiler(command: Sequence[str]) -> str | None:
    """Return None on success, else the compiler's first error line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=COMPILE_TIMEOUT_S, check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[0] if errors else f"exit status {done.returncode}"
