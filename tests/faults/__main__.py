"""``python -m faults``: exits 0 when every fault fired and every promise was kept."""

from __future__ import annotations

import argparse
import os
import sys
import time

from . import report
from .company import play
from .matrix import PARTS, Case, all_cases


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--case", action="append", default=[], metavar="ID",
                        help="only this case (may be repeated; see --list)")
    parser.add_argument("--part", choices=sorted(PARTS), help="only cases of this kind")
    parser.add_argument("--shard", default="1/1", metavar="K/N", help="only every Nth case")
    parser.add_argument("--mode", action="append", choices=("root", "rootless"),
                        help="only this mode (default: both, where root can be had)")
    parser.add_argument("--workers", type=int, default=2, metavar="N",
                        help="how many play at a time in each mode (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the ids and do nothing")
    parser.add_argument("--publish", action="store_true",
                        help="put the table into benchmarks/RESULTS.md")
    options = parser.parse_args()
    try:
        cases = chosen(options.case, options.part, options.shard)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(case.id for case in cases))
        return 0
    modes = options.mode or (["root", "rootless"] if os.geteuid() == 0 else ["rootless"])
    began = time.monotonic()
    outcomes = play(cases, modes, lambda outcome: print(report.line(outcome), flush=True),
                    max(1, options.workers))
    seconds = time.monotonic() - began
    broken = [one for one in outcomes if not one.held]
    if broken:
        print(f"\nNot held ({len(broken)}):")
        for one in broken:
            print(report.line(one))
    print(f"\nheld/injected, in {seconds / 60:.1f} minutes:")
    print(report.as_text(report.table(outcomes)))
    print()
    print("\n".join(report.figures(outcomes)))
    if options.publish:
        report.publish(outcomes, seconds)
    return 1 if broken else 0


def chosen(names: list[str], part: str | None, shard: str) -> list[Case]:
    """Return the cases asked for. Raises `ValueError` when there are none such."""
    cases = list(PARTS[part]()) if part else all_cases()
    known = {case.id: case for case in all_cases()}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no such case: {', '.join(unknown)}")
    if names:
        cases = [known[name] for name in names]
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"{shard!r} is no shard: 1/2 and 2/2 are the halves")
    return cases[int(number) - 1::int(count)]


if __name__ == "__main__":
    sys.exit(main())
