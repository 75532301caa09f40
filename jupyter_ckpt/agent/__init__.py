"""The kernel agent: joins box, engine and store, and serves one kernel."""
