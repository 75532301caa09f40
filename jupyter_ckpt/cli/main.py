"""The entry of ``jupyter ckpt``: so small that Ctrl-C finds it ready while the rest is loaded.

Import nothing here that is not loaded with any Python, not even typing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .call import Kernels

_INTERRUPTED = 130
_DOCUMENT = """\
{
  "error": {
    "code": 130,
    "id": "interrupted",
    "message": "Interrupted.",
    "hint": ""
  }
}"""


def main(args: Sequence[str] | None = None, *, kernels: Kernels | None = None) -> int:
    """Run the command line and return its exit code (the entry of the console script).

    `kernels` replaces `jupyter_ckpt.kernels`; tests use it.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        from .commands import run

        return run(words, kernels)
    except KeyboardInterrupt:
        # Before or after a verb was at work: nothing is to be told of it.
        if "--json" in words:
            print(_DOCUMENT, flush=True)
        elif sys.stderr is not None:
            print("error: Interrupted.", file=sys.stderr, flush=True)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
