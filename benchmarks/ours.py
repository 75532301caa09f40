"""A session under jupyter_ckpt, used as CLI and server use it."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

from jupyter_client.connect import write_connection_file

from jupyter_ckpt import kernels
from jupyter_ckpt.locations import Locations
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.procfs import ProcessId
from jupyter_ckpt.protocol import Job
from jupyter_ckpt.record import Record

from .channel import Channel
from .processes import kill_abruptly, trees
from .subject import Saved, Subject


class Ours(Subject):
    """A kernel with an agent and a store in `folder`."""

    def __init__(self, folder: Path, env: dict[str, str], code: str) -> None:
        self.locations = Locations(folder / "runtime" / "ckpt", folder / "runtime",
                                   folder / "data" / "ckpt")
        self.record = start_kernel(self.locations, env, folder)
        self.channel = Channel(self.locations.connection_file(self.record.kernel_id))
        self.channel.open()
        self.channel.run(code)
        self.manifest: Manifest | None = None

    def _save(self) -> Saved:
        states: list[tuple[float, str]] = []

        def note(job: Job) -> None:
            if not states or states[-1][1] != job.state:
                states.append((time.monotonic(), job.state))

        began = time.monotonic()
        self.manifest = kernels.save(self.locations, self.record, on_progress=note)
        stored_s = time.monotonic() - began
        phases = ", ".join(f"{name} {end - start:.2f}" for (start, name), (end, _)
                           in pairwise(states))
        return Saved(0.0, stored_s, self.manifest.stored_bytes, phases)

    def tidy(self) -> None:
        # Not removed: for some minutes ext4 goes round the inodes of files that
        # were just removed, and making new ones takes ten times as long.
        store = self.locations.store_dir
        if store.exists():
            store.rename(store.with_name(f"{store.name}-{time.monotonic_ns()}"))

    def companions(self) -> list[ProcessId]:
        """Return what runs beside the kernel because of us: agent and box."""
        self.record = kernels.find_kernel(self.locations, self.record.kernel_id)
        found = (self.record.agent, self.record.init, self.record.root)
        return [identity for identity in found if identity is not None]

    def _kill(self) -> None:
        kill_abruptly(trees(identity.pid for identity in self.companions()))

    def _restore(self) -> None:
        assert self.manifest is not None
        kernels.restore(self.locations, self.manifest, kernel_id=self.record.kernel_id)
        self.record = kernels.find_kernel(self.locations, self.record.kernel_id)


def start_kernel(
    locations: Locations, env: dict[str, str], cwd: Path, owner: dict[str, object] | None = None,
    session: dict[str, object] | None = None,
) -> Record:
    """Start an IPython kernel with an agent."""
    kernel_id = kernels.new_kernel_id()
    connection_file = str(locations.connection_file(kernel_id))
    write_connection_file(connection_file)
    return kernels.launch(
        locations, kernel_id=kernel_id, kernel_name="python3", env=env, cwd=str(cwd),
        cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", connection_file],
        connection_file=connection_file, language="python", owner=owner, session=session)
