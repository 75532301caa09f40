"""The server extension: wires provisioner, adoption, journal, routes and events."""

from __future__ import annotations

import json
import os
from importlib.metadata import EntryPoint
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Enum, Float, Integer, Unicode

from .agent.frozen import LIMIT_VARIABLE, parse_limit
from .configuration import OWN_FILE, Configuration
from .errors import CheckpointError, UsageError
from .handlers import ROUTES
from .locations import Locations
from .plan import (
    DEFAULT_SAVE_BELOW,
    KEEP_VARIABLE,
    KEEPS,
    SAVE_BELOW_VARIABLE,
    Schedule,
    changed,
    keeping,
)
from .provisioner import PROVISIONER_NAME
from .server import backend as backends
from .server.adoption import Adoption
from .server.agent_watch import AgentWatch
from .server.backend import Backend
from .server.culling import POLICIES as CULL_POLICIES
from .server.culling import Culling
from .server.departure import POLICIES, Departure
from .server.documents import Documents
from .server.events import EventStream
from .server.fork_service import ForkService
from .server.handling import SETTINGS_KEY, Services
from .server.jobs import JobBoard
from .server.journal import SessionJournal
from .server.opening import Opening
from .server.owner import this_process
from .server.park_service import ParkService
from .server.restore_service import RestoreService
from .server.save_service import SaveService
from .sizes import OFF, parse_size, parse_threshold


class CheckpointApp(ExtensionApp):
    """Saves and restores running sessions.

    Stateless: killing the server at any moment costs nothing, the next one
    finds every living kernel by its record.
    """

    name = "jupyter_ckpt"
    load_other_extensions = True

    store_dir = Unicode("", config=True, help="""Folder of the checkpoints
        (default: 'ckpt' in Jupyter's data directory). 'jupyter ckpt' reads it, too.""")
    criu = Unicode("", config=True, help="""The criu program to use (default: the one that
        'jupyter ckpt setup' installed, or one on PATH). 'jupyter ckpt' reads it, too.""")
    use_for_local_kernels = Bool(True, config=True, help="""Start every local kernel whose
        kernelspec names no provisioner so that it can be checkpointed.""")
    every = Unicode(None, allow_none=True, config=True, help="""Save every new kernel by itself
        this often: '30s', '10m', '2h' (default: never). An idle kernel is not saved again.""")
    cells = Integer(None, allow_none=True, config=True, help="""Save every new kernel by itself
        after so many cells (default: never).""")
    keep = Integer(None, allow_none=True, config=True, help="""How many automatic checkpoints
        of each notebook stay where its schedule does not say so (default: 5).""")
    file_limit = Unicode("", config=True, help="""Files open for writing are saved up to this size:
        '500M', '4G' (powers of 1000), '4GiB' (powers of 1024), or '0' for none (default: 4G).
        Larger ones get a warning.""")
    keep_hourly = Integer(None, allow_none=True, config=True, help="""Besides, the newest automatic
        checkpoint of each of the last so many hours that have one stays (default: 0).""")
    keep_daily = Integer(None, allow_none=True, config=True, help="""Besides, the newest automatic
        checkpoint of each of the last so many days that have one stays (default: 0).""")
    save_below_memory = Unicode(DEFAULT_SAVE_BELOW, config=True, help="""Save a kernel that has
        a schedule when less memory than this is left, of the machine or of the kernel's cgroup:
        '5%', '2G' or 'off'.""")
    quota = Unicode("", config=True, help="""How much the checkpoint store may hold: '20G', 'off'.
        Written into the store when the server starts (default: it stays as
        'jupyter ckpt quota' has set it).""")
    agent_check_s = Float(60.0, min=0.0, config=True, help="""How often, in seconds, the
        server looks for kernels that were started without it, to listen to their agents. An agent
        that dies is replaced at once (0: the server neither listens nor replaces).""")
    on_shutdown = Enum(POLICIES, "stop", config=True, help="""What becomes of the kernels when the
        server is shut down: 'save-and-stop' (opening a notebook later brings its session back),
        'leave-running' (the next server in the same folder shows them again) or 'stop'.""")
    shutdown_budget_s = Float(25.0, min=0.0, config=True, help="""How many seconds the saves of
        'save-and-stop' may take together when the server is shut down. Kernels that are not saved
        by then are left running.""")
    on_cull = Enum(CULL_POLICIES, "save-and-stop", config=True, help="""What becomes of an idle
        kernel that Jupyter culls: 'save-and-stop' (opening its notebook later brings the session
        back; a kernel that cannot be saved is not culled) or 'stop'.""")

    on_crash = Enum(("offer", "restore"), "offer", config=True, help="""What becomes of a session
        whose kernel crashed: 'offer' (a fresh kernel, and JupyterLab and 'jupyter ckpt ps' offer
        the last checkpoint) or 'restore' (its last checkpoint is restored by itself, at most once
        for each checkpoint and three times an hour for each kernel).""")

    def _config_file_name_default(self) -> str:
        return OWN_FILE  # Jupyter would put its own name before ours

    def initialize_settings(self) -> None:
        """Build the services, become the default provisioner, adopt living kernels.

        Called by Jupyter while the extension loads, before HTTP serves.
        """
        app: Any = self.serverapp
        chosen = Configuration(store_dir=self.store_dir, criu=self.criu)
        chosen.tell_agents()
        self._tell_file_limit()
        self._tell_threshold()
        self.backend = Backend(Locations.default(chosen.store))
        self.backend.owner = this_process(app.root_dir, app.connection_url)
        self.backend.schedule = self._default_schedule()
        self.backend.on_crash = self.on_crash
        self._set_quota()
        backends.use(self.backend)
        documents = Documents(app.contents_manager)
        self.settings[SETTINGS_KEY] = self._services(documents)
        self.journal = SessionJournal(
            self.backend, app.session_manager, documents.os_path, self.log)
        self._become_default()
        self.watch = AgentWatch(self.backend, self.backend.events, self.log, self.agent_check_s)
        # Before the journal: what adoption recreates stands in the records already.
        self._adopt()
        self.journal.install()
        Opening(app.session_manager).install()
        self.backend.session_of = self.journal.session_of
        if self.on_cull == "save-and-stop":
            Culling(self.parks, app.kernel_manager, self.log).install()

    def _tell_file_limit(self) -> None:
        """Put ``file_limit`` where agents find it; a senseless one is named and not used."""
        if not self.file_limit:
            return  # whoever started the server may have set the variable
        try:
            parse_limit(self.file_limit)
        except UsageError as error:
            self.log.error("CheckpointApp.file_limit: %s", error.message)
        else:
            os.environ[LIMIT_VARIABLE] = self.file_limit

    def _tell_threshold(self) -> None:
        """Put ``save_below_memory`` where agents find it; a senseless one is named and not used."""
        if "save_below_memory" not in self.config.get(type(self).__name__, {}):
            return  # whoever started the server may have set the variable
        try:
            parse_threshold(self.save_below_memory)
        except UsageError as error:
            self.log.error("CheckpointApp.save_below_memory: %s", error.message)
        else:
            os.environ[SAVE_BELOW_VARIABLE] = self.save_below_memory

    def _set_quota(self) -> None:
        """Write ``quota`` into the store; what goes wrong is named and stops nothing."""
        if not self.quota:
            return
        try:
            limit = None if self.quota.strip().lower() == OFF else parse_size(self.quota)
            self.backend.store().set_quota(limit)
        except CheckpointError as error:
            self.log.error("CheckpointApp.quota: %s", error.message)

    def _default_schedule(self) -> Schedule | None:
        """Return the schedule of new kernels; a senseless one is named and not used.

        What it keeps is put where agents find it, for schedules that are set later.
        """
        given = self._given("every", "cells", *KEEPS)
        kept = self._given(*KEEPS)
        try:
            if kept:
                keeping(kept)
                os.environ[KEEP_VARIABLE] = json.dumps(kept)
            return changed(None, given) if len(given) > len(kept) else None
        except UsageError as error:
            self.log.error("Kernels start without automatic checkpoints: CheckpointApp.%s: %s",
                           "/".join(given), error.message)
            return None

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def initialize_handlers(self) -> None:
        self.handlers.extend(ROUTES)

    def _services(self, documents: Documents) -> Services:
        app: Any = self.serverapp
        events = self.backend.events = EventStream(app.event_logger, self.log)
        jobs = JobBoard(self.backend)
        shared = (events, documents, app.kernel_manager, app.session_manager, self.log)
        saves = SaveService(self.backend, jobs, *shared)
        self.parks = ParkService(self.backend, events, saves, self.log)
        return Services(
            backend=self.backend, jobs=jobs, events=events, documents=documents, saves=saves,
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
        self.adoption = Adoption(self.backend, app.kernel_manager, app.session_manager, self.log)
        loop = app.io_loop
        if loop.asyncio_loop.is_running():  # a server embedded in a running loop
            loop.add_callback(self.adoption.adopt_all)
        else:
            loop.run_sync(self.adoption.adopt_all)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Write the final URL into the records: the port is known only now."""
        self.watch.start()
        owner = this_process(serverapp.root_dir, serverapp.connection_url)
        if owner != self.backend.owner:
            self.backend.owner = owner
            await self.journal.note_all()

    async def stop_extension(self) -> None:
        """Apply ``on_shutdown``; called before the server ends its kernels."""
        app: Any = self.serverapp
        try:
            self.adoption.stop()
            self.watch.stop()
            await Departure(self.backend, self.parks, app.kernel_manager, self.log).leave(
                self.on_shutdown, self.shutdown_budget_s)
        except Exception:
            # A server that stumbles here would never end.
            self.log.exception("Leaving the kernels went wrong.")
