"""``python tests/fuzz [--inputs N]``: every target, with its part of N inputs, and a table.

Exits with 1 when an input did what none may; such inputs are kept in
``fuzz-findings/`` and become regression tests.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from target import all_targets  # noqa: E402


def shares(inputs: int, names: list[str]) -> dict[str, int]:
    """Return how many of `inputs` each target gets; they add up to `inputs` at least."""
    kinds = all_targets()
    total = sum(kinds[name].weight for name in names)
    return {name: int(inputs * kinds[name].weight / total) + 1 for name in names}


def run_one(name: str, inputs: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a target to its end and return its report; one that dies has a finding, too."""
    report = folder / f"{name}.json"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(HERE / "worker.py"), name, "--inputs", str(inputs), "--report",
         str(report), "--seed", str(options.seed), "--seconds", str(options.seconds),
         "--findings", options.findings],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if report.exists():
        found: dict[str, Any] = json.loads(report.read_text())
        return found
    return {"target": name, "inputs": 0, "refused": 0, "guided": False,
            "seconds": round(time.monotonic() - began, 1),
            "findings": [{"what": f"ended with {done.returncode}: {done.stderr[-2000:]}",
                          "input": ""}]}


def table(reports: list[dict[str, Any]]) -> str:
    rows = ["| target | inputs | refused with a named error | guided by coverage | seconds "
            "| findings |", "| --- | --- | --- | --- | --- | --- |"]
    for one in reports:
        rows.append(f"| {one['target']} | {one['inputs']:,} | {one['refused']:,} "
                    f"| {'yes' if one['guided'] else 'no'} | {one['seconds']:.0f} "
                    f"| {len(one['findings'])} |")
    total = sum(one["inputs"] for one in reports)
    broken = sum(len(one["findings"]) for one in reports)
    return "\n".join([*rows, "", f"fuzz inputs: {total}", f"fuzz findings: {broken}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in total")
    parser.add_argument("--seed", type=int, default=int(time.time()) % (1 << 31))
    parser.add_argument("--seconds", type=float, default=400, help="at most, for each target")
    parser.add_argument("--findings", default="fuzz-findings")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    names = options.targets or list(all_targets())
    print(f"seed {options.seed}", flush=True)
    reports = []
    with tempfile.TemporaryDirectory(prefix="ckpt-fuzz-") as folder:
        for name, inputs in shares(options.inputs, names).items():
            found = run_one(name, inputs, options, Path(folder))
            reports.append(found)
            print(f"{name}: {found['inputs']:,} inputs, {found['seconds']:.0f} s", flush=True)
            for finding in found["findings"]:
                print(f"  {finding['what'][:1500]}\n    {finding['input']}", flush=True)
    print("\n" + table(reports))
    short = sum(r["inputs"] for r in reports) < options.inputs
    if short:
        print("Fewer inputs than asked for: time was up.", file=sys.stderr)
    return 1 if short or any(one["findings"] for one in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
