"""The fault matrix: what dies, hangs or fails at which step, and what must hold then.

``python -m faults`` (with ``tests`` on the path) walks all of it in root and in
rootless mode; ``--case ID`` one case, ``--shard 1/2`` a part. See `matrix` for the
cases, `inspection` for what is checked after each.
"""
