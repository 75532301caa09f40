"""The server extension: wires provisioner, adoption, journal, routes and events."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Enum, Integer, Unicode

from .errors import UsageError
from .handlers import ROUTES, SETTINGS_KEY, Services
from .locations import Locations
from .plan import Schedule, changed
from .provisioner import PROVISIONER_NAME
from .server import backend as backends
from .server.adoption import Adoption
from .server.backend import Backend
from .server.departure import POLICIES, Departure
from .server.documents import Documents
from .server.events import EventStream
from .server.fork_service import ForkService
from .server.jobs import JobBoard
from .server.journal import SessionJournal
from .server.owner import this_process
from .server.restore_service import RestoreService
from .server.save_service import SaveService


class CheckpointApp(ExtensionApp):
    """Saves and restores running sessions.

    Stateless: killing the server at any moment costs nothing, the next one
    finds every living kernel by its record.
    """

    name = "jupyter_ckpt"
    load_other_extensions = True

    store_dir = Unicode("", config=True, help="""Folder of the checkpoints
        (default: 'ckpt' in Jupyter's data directory).""")
    criu = Unicode("", config=True, help="""The criu program to use (default: the one that
        'jupyter ckpt setup' installed, or one on PATH).""")
    use_for_local_kernels = Bool(True, config=True, help="""Start every local kernel whose
        kernelspec names no provisioner so that it can be checkpointed.""")
    every = Unicode(None, allow_none=True, config=True, help="""Save every new kernel by itself
        this often: '30s', '10m', '2h' (default: never). An idle kernel is not saved again.""")
    cells = Integer(None, allow_none=True, config=True, help="""Save every new kernel by itself
        after so many cells (default: never).""")
    keep = Integer(None, allow_none=True, config=True, help="""How many automatic checkpoints
        of each notebook stay (default: 5).""")
    on_shutdown = Enum(POLICIES, "stop", config=True, help="""What becomes of the kernels when the
        server is shut down: 'save-and-stop', 'leave-running' (the next server in the same folder
        shows them again) or 'stop'.""")

    def initialize_settings(self) -> None:
        """Build the services, become the default provisioner, adopt living kernels.

        Called by Jupyter while the extension loads, before HTTP serves.
        """
        app: Any = self.serverapp
        if self.criu:
            os.environ["JUPYTER_CKPT_CRIU"] = self.criu  # agents inherit it
        store = Path(self.store_dir).expanduser() if self.store_dir else None
        self.backend = Backend(Locations.default(store))
        self.backend.owner = this_process(app.root_dir, app.connection_url)
        self.backend.schedule = self._default_schedule()
        backends.use(self.backend)
        documents = Documents(app.contents_manager)
        self.settings[SETTINGS_KEY] = self._services(documents)
        self.journal = SessionJournal(
            self.backend, app.session_manager, documents.os_path, self.log)
        self._become_default()
        # Before the journal: what adoption recreates stands in the records already.
        self._adopt()
        self.journal.install()

    def _default_schedule(self) -> Schedule | None:
        """Return the schedule of new kernels; a senseless one is named and not used."""
        named = {"every": self.every, "cells": self.cells, "keep": self.keep}
        given = {name: value for name, value in named.items() if value is not None}
        try:
            return changed(None, given) if given else None
        except UsageError as error:
            self.log.error("Kernels start without automatic checkpoints: CheckpointApp.%s: %s",
                           "/".join(given), error.message)
            return None

    def initialize_handlers(self) -> None:
        self.handlers.extend(ROUTES)

    def _services(self, documents: Documents) -> Services:
        app: Any = self.serverapp
        events = EventStream(app.event_logger, self.log)
        jobs = JobBoard(self.backend)
        shared = (events, documents, app.kernel_manager, app.session_manager, self.log)
        return Services(
            backend=self.backend, jobs=jobs, events=events, documents=documents,
            saves=SaveService(self.backend, jobs, *shared),
            restores=RestoreService(self.backend, *shared),
            forks=ForkService(self.backend, *shared))

    def _become_default(self) -> None:
        if not self.use_for_local_kernels:
            self.log.info("Local kernels start without checkpoints: "
                          "CheckpointApp.use_for_local_kernels is off.")
            return
        app: Any = self.serverapp
        factory = KernelProvisionerFactory.instance(parent=app.kernel_manager)
        # Known by its entry point already, except where the package's metadata
        # is missing (PYTHONPATH, zip): then every kernel would fail to start.
        factory.provisioners.setdefault(PROVISIONER_NAME, EntryPoint(
            PROVISIONER_NAME, "jupyter_ckpt.provisioner:CheckpointProvisioner",
            KernelProvisionerFactory.GROUP_NAME))
        # Another default was somebody's choice.
        if factory.default_provisioner_name == "local-provisioner":
            factory.default_provisioner_name = PROVISIONER_NAME

    def _adopt(self) -> None:
        app: Any = self.serverapp
        adoption = Adoption(self.backend, app.kernel_manager, app.session_manager, self.log)
        loop = app.io_loop
        if loop.asyncio_loop.is_running():  # a server embedded in a running loop
            loop.add_callback(adoption.adopt_all)
        else:
            loop.run_sync(adoption.adopt_all)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Write the final URL into the records: the port is known only now."""
        owner = this_process(serverapp.root_dir, serverapp.connection_url)
        if owner != self.backend.owner:
            self.backend.owner = owner
            await self.journal.note_all()

    async def stop_extension(self) -> None:
        """Apply ``on_shutdown``; called before the server ends its kernels."""
        app: Any = self.serverapp
        await Departure(self.backend, app.kernel_manager, self.log).leave(self.on_shutdown)
