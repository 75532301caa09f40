"""The largest variables of the session, for people choosing a checkpoint.

Sizes are estimates made in milliseconds while user code may be running, so only
types whose own size is cheap and free of side effects are asked.
"""

from __future__ import annotations

import sys
import types
from itertools import islice
from typing import Any

SAMPLE = 64
_ASKABLE = ("numpy", "pandas", "torch", "polars", "pyarrow", "cupy", "jax", "jaxlib", "scipy")
_SKIPPED = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


def largest_variables(shell: Any, count: int = 20) -> list[dict[str, Any]]:
    """Return [{name, type, size_bytes}] of the user's variables, largest first."""
    hidden = shell.user_ns_hidden
    found = []
    for name, value in list(shell.user_ns.items()):
        if name.startswith("_") or isinstance(value, _SKIPPED):
            continue
        if name in hidden and hidden.get(name) is value:
            continue
        found.append({"name": name, "type": type(value).__name__, "size_bytes": size_of(value)})
    found.sort(key=lambda entry: -entry["size_bytes"])
    return found[:count]


def size_of(value: Any) -> int:
    """Return about how many bytes `value` holds; 0 when it cannot be told."""
    try:
        own = _own_size(value)
        if type(value) is dict:
            return own + _scaled(islice(value.items(), SAMPLE), len(value))
        if type(value) in (list, tuple, set, frozenset):
            return own + _scaled(((item,) for item in islice(value, SAMPLE)), len(value))
        return own
    except Exception:  # __sizeof__ and friends are foreign code: no size is an answer
        return 0


def _own_size(value: Any) -> int:
    if (type(value).__module__ or "").split(".")[0] in _ASKABLE:
        usage = getattr(value, "memory_usage", None)
        if callable(usage):
            total = usage(index=True)
            return int(total.sum() if hasattr(total, "sum") else total)
        if isinstance(getattr(value, "nbytes", None), int):
            return int(value.nbytes)
        if hasattr(value, "element_size"):
            return int(value.element_size() * value.nelement())
        if hasattr(value, "estimated_size"):
            return int(value.estimated_size())
    return sys.getsizeof(value, 0)


def _scaled(entries: Any, length: int) -> int:
    sizes = [sum(_own_size(item) for item in entry) for entry in entries]
    return int(sum(sizes) / len(sizes) * length) if sizes else 0
