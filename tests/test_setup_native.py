"""The C programs: built, found, rebuilt, and errors that say what to install."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary_user import ordinary_user

from jupyter_ckpt import native_build
from jupyter_ckpt.native_build import NativeBuildFailed, NativeMissing

NAMES = ["ckpt-box", "boxshim.so", "criushim.so"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder with nothing built, and a prefix of its own."""
    package = tmp_path / "package"
    package.mkdir()
    shutil.copytree(native_build.sources_folder(), package / "native_sources")
    monkeypatch.setattr(native_build, "PACKAGE", package)
    monkeypatch.setattr(native_build, "PREBUILT", package / "_native")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    native_build._own_folder.cache_clear()
    yield package
    native_build._own_folder.cache_clear()


def compiler(folder: Path, body: str) -> str:
    """A stand-in for cc."""
    path = folder / "false-cc"
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_build_makes_all_and_finds_them(installed: Path) -> None:
    built = native_build.build()
    assert [path.name for path in built] == NAMES
    assert [native_build.native_path(name) for name in NAMES] == built
    assert built[0].parent == installed / "_native"
    assert native_build.problems() == []
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o555 == 0o555 for path in built)


def test_build_again_compiles_nothing(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = native_build.build()
    monkeypatch.setenv("CC", compiler(installed, "exit 1"))
    monkeypatch.setenv("PATH", "")
    assert native_build.build() == first


def test_build_changed_source_is_compiled_again(installed: Path) -> None:
    box = native_build.build()[0]
    os.utime(box, (1, 1))
    native_build.build()
    assert box.stat().st_mtime > 1


def test_build_product_that_does_not_run_is_replaced(installed: Path) -> None:
    box = native_build.build()[0]
    box.write_bytes(b"not a program")
    assert any("does not work here" in problem for problem in native_build.problems())
    native_build.build()
    assert native_build.problems() == []


def test_build_without_compiler_says_what_to_install(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(installed))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(NativeBuildFailed, match="no C compiler") as caught:
        native_build.build()
    assert "apt install gcc" in caught.value.hint
    assert not (installed / "_native").exists()


def test_build_compile_error_is_shown_and_leaves_the_old(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [path.read_bytes() for path in native_build.build()]
    complaint = "echo 'box.c:1: error: no such thing' >&2; exit 1"
    monkeypatch.setenv("CC", compiler(installed, complaint))
    with pytest.raises(NativeBuildFailed, match="no such thing"):
        native_build.build(force=True)
    assert [native_build.native_path(name).read_bytes() for name in NAMES] == before
    assert sorted(path.name for path in (installed / "_native").iterdir()) == sorted(NAMES)


def test_build_static_impossible_links_dynamically(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = f'for w; do [ "$w" = -static ] && exit 1; done; exec {shutil.which("cc")} "$@"'
    monkeypatch.setenv("CC", compiler(installed, wrapper))
    native_build.build()
    assert native_build.problems() == []


def test_build_package_not_writable_goes_to_the_prefix() -> None:
    with ordinary_user() as user:
        prefix = user.home / "prefix"
        done = user.run(sys.executable, "-c", f"""
import sys
from pathlib import Path
from jupyter_ckpt import native_build
sys.prefix = {str(prefix)!r}
native_build.PREBUILT = Path("/proc")
for path in native_build.build():
    assert path == native_build.native_path(path.name)
    print(path)
assert native_build.problems() == []
""")
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            assert Path(line).is_relative_to(prefix / "share" / "jupyter" / "ckpt" / "native")


def test_native_path_unbuilt_names_setup(installed: Path) -> None:
    with pytest.raises(NativeMissing, match="ckpt-box") as caught:
        native_build.native_path("ckpt-box")
    assert "jupyter ckpt setup" in caught.value.hint
    assert caught.value.exit_code == 4


def test_sources_missing_is_told(installed: Path) -> None:
    (installed / "native_sources" / "box.c").unlink()
    with pytest.raises(NativeBuildFailed, match="lacks its C sources"):
        native_build.build()


def test_build_changed_header_is_compiled_again(installed: Path) -> None:
    box = native_build.build()[0]
    for source in (installed / "native_sources").iterdir():
        os.utime(source, (1, 300 if source.name == "tracer.h" else 100))
    os.utime(box, (1, 200))
    native_build.build()
    assert box.stat().st_mtime > 300


@pytest.mark.parametrize("product", native_build.PRODUCTS, ids=lambda product: product.name)
def test_sources_compile_without_a_warning(product: native_build.Product, tmp_path: Path) -> None:
    sources = native_build.sources_folder()
    done = subprocess.run(
        ["cc", *product.flag_sets[-1], "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "out",
         *(sources / name for name in product.sources), *product.trailing],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
