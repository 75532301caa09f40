"""Where things are for this user: runtime folders, connection files, the store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir, jupyter_runtime_dir


@dataclass(frozen=True)
class Locations:
    """``runtime_dir`` holds one folder for each kernel, ``connection_dir`` the
    connection files as Jupyter names them, ``store_dir`` the checkpoints."""

    runtime_dir: Path
    connection_dir: Path
    store_dir: Path

    @classmethod
    def default(cls, store: str | Path | None = None) -> Locations:
        """Return Jupyter's own places.

        `store` is what was asked for: by ``--store``, else by the configuration
        (`Configuration.store`, or the trait of the server extension). Without
        it the store is ``ckpt`` in Jupyter's data folder.
        """
        runtime = Path(jupyter_runtime_dir()).absolute()
        chosen = Path(store).expanduser() if store else Path(jupyter_data_dir()) / "ckpt"
        return cls(runtime / "ckpt", runtime, chosen.absolute())

    def folder(self, kernel_id: str) -> Path:
        """Return the runtime folder of a kernel (it need not exist)."""
        return self.runtime_dir / kernel_id

    def connection_file(self, kernel_id: str) -> Path:
        return self.connection_dir / f"kernel-{kernel_id}.json"
