"""The main job, end to end: save a running notebook, lose everything, get it all back.

``make demo`` runs it: a real Jupyter server, a real kernel, real checkpoints,
in folders of their own that are removed afterwards.
"""
