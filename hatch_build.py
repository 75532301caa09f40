"""Build hook: what a checkout must make before it is a package.

The C programs: without a compiler the package still installs, and `jupyter ckpt
setup` compiles later, or says what to install. The JupyterLab extension: built
with npm if it was not built yet (an sdist carries it ready made).
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fills ``jupyter_ckpt/_native`` and gives the wheel its platform tag."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the wheel's files."""
        package = Path(self.root, "jupyter_ckpt")
        self._build_labextension(package / "labextension")
        native_build = _native_build(package)
        try:
            native_build.build(into=package / "_native")
        except native_build.NativeBuildFailed as error:
            self.app.display_warning(f"{error.message} {error.hint}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


    def _build_labextension(self, built: Path) -> None:
        if (built / "package.json").exists():
            return
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("Building from a checkout needs npm (Node 20.19 or newer) "
                               "for the JupyterLab extension. Install it, or use a wheel.")
        for command in (["ci"], ["run", "build:prod"]):
            subprocess.run([npm, *command], cwd=Path(self.root, "labextension"), check=True)


def _native_build(package: Path) -> Any:
    """Import ``jupyter_ckpt.native_build`` without running ``jupyter_ckpt``.

    The build environment has none of the package's dependencies, and the
    package's own ``__init__`` need not know about that.
    """
    bare = types.ModuleType("jupyter_ckpt")
    bare.__path__ = [str(package)]
    kept = sys.modules.get("jupyter_ckpt")
    sys.modules["jupyter_ckpt"] = bare
    try:
        return importlib.import_module("jupyter_ckpt.native_build")
    finally:
        if kept is None:
            del sys.modules["jupyter_ckpt"]
        else:
            sys.modules["jupyter_ckpt"] = kept
