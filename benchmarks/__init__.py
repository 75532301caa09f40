"""Speed and size of checkpoints beside plain CRIU, on the same sessions in one run.

``make bench`` prints the table and appends it to ``benchmarks/RESULTS.md``.
"""
