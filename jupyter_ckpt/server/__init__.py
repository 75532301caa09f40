"""What the Jupyter server side is made of.

::

    serverext.CheckpointApp ── loads ──▶ adoption, journal, events, handlers
    handlers ── call ──▶ save_service, restore_service, fork_service, jobs
    the services ── call ──▶ swap (Jupyter) and backend (agents and store)

The server owns no truth: everything here can be rebuilt from the runtime
records, the agents and the store, so killing the server costs nothing.
"""
