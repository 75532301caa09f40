"""Imports go downwards only; parts of one layer do not know each other."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jupyter_ckpt"

LAYERS: dict[str, int] = {
    # L0: types; the standard library only
    "errors": 0, "procfs": 0, "protocol": 0, "manifest": 0, "plan": 0, "sizes": 0, "record": 0,
    "native_build": 0, "faults": 0, "shapes": 0, "private": 0,
    "kernel_ports": 0,
    # L1: parts that do not know each other
    "store": 1, "engine": 1, "box": 1,
    # L2: joins them for one kernel
    "privileges": 2, "setup_criu": 2, "doctor": 2, "locations": 2, "client": 2, "delivery": 2,
    "agent_place": 2, "kernels": 2, "kernel_lookup": 2, "configuration": 2, "parking": 2,
    "lasting": 2, "offers": 2, "stale": 2, "remains": 2, "agent": 2, "kernel_agent": 2,
    # L3: Jupyter and the command line
    "provisioner": 3, "server": 3, "serverext": 3, "handlers": 3, "cli": 3,
}
STANDARD_LIBRARY_ONLY = 0
SELF_CONTAINED = "inkernel"
"""Runs in the kernel's environment, where this package need not be installed."""

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "native_sources" not in p.parts)


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Return the parts of jupyter_ckpt that a module imports."""
    depth = len(path.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module.split(".")[0]] if node.module else [a.name for a in node.names]
            found.update(names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jupyter_ckpt."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names
                         if a.name.startswith("jupyter_ckpt."))
    return {name for name in found if name != part_of(path) and name != "__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_from_lower_layers(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return  # the public face: loads what it names when it is asked for
    if part == SELF_CONTAINED:
        assert imported_parts(path) == set()
        return
    own = LAYERS[part]
    for other in imported_parts(path):
        assert LAYERS[other] <= own, f"{part} (L{own}) imports {other} (L{LAYERS[other]})"
        assert not LAYERS[other] == own == 1, f"{part} and {other} must not know each other"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if LAYERS.get(part_of(p)) == STANDARD_LIBRARY_ONLY],
    ids=lambda p: p.name)
def test_lowest_layer_needs_only_the_standard_library(path: Path) -> None:
    allowed = sys.stdlib_module_names
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] in allowed
        elif isinstance(node, ast.Import):
            assert all(a.name.split(".")[0] in allowed for a in node.names)
