"""What the measured sessions hold."""

from __future__ import annotations

_WATCH = """
import threading, time
_longest_gap = [0.0]
def _watch():
    last = time.monotonic()
    while True:
        time.sleep(0.001)
        now = time.monotonic()
        _longest_gap[0] = max(_longest_gap[0], now - last)
        last = now
threading.Thread(target=_watch, daemon=True).start()
"""
"""A thread that sees every pause of its process, whatever causes it."""

RESET_WATCH = "_longest_gap[0] = 0.0"
READ_WATCH = "print(_longest_gap[0])"


def mixed(megabytes: int) -> str:
    """Return code that fills memory like `filled`, and watches for pauses."""
    return _WATCH + filled(megabytes)


def filled(megabytes: int) -> str:
    """Return code that fills memory: half noise, 30% compressible, 20% Python objects."""
    return f"""
import numpy as np
noise = np.random.default_rng(1).random({megabytes} * 62_500)
table = np.arange({megabytes} * 37_500) // 1000
records = [{{"id": n, "name": f"item {{n}}", "tags": [n % 7, n % 11]}}
           for n in range({megabytes} * 520)]
"""


REWRITE = """
import threading, time
def _rewrite():
    source, part, place = np.random.default_rng(3), noise.size // 100, 0
    while True:
        noise[place:place + part] = source.random(part)
        place = (place + part) % (part * 100)
        time.sleep(0.05)
threading.Thread(target=_rewrite, daemon=True).start()
"""
"""Has a thread write all of the noise anew every 5 to 10 s, in a session that is `filled`."""

SMALL_CHANGE = """
noise[1000:2000] = 0
records[17]["name"] = "changed"
losses = [n * 0.5 for n in range(1000)]
"""

POOL_ARRAY_BYTES = 200_000_000
POOL = _WATCH + f"""
import multiprocessing, operator
from concurrent.futures import ProcessPoolExecutor
import numpy as np
shared = np.random.default_rng(2).random({POOL_ARRAY_BYTES} // 8)
def part(n):
    time.sleep(0.05)
    return float(shared[n::3].sum())
pool = ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("fork"))
sums = list(pool.map(part, range(3)))
"""
