"""Runs one target in a process of its own: ``worker.py TARGET --inputs N --seed S --report F``.

Guided by coverage where `atheris` is installed and the target wants it, else
by nothing but the target's own mutations of its seeds. What goes wrong is
noted and kept as a file; the run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
CORPUS_PART = 0.5
MOST_FINDINGS = 40
UNGUIDED = ("rest", "agent-socket", "kernel-socket", "kernel-answer")
"""Their work is done in other threads or processes, where no coverage is seen."""


class Run:
    """The inputs of one target."""

    def __init__(self, options: argparse.Namespace) -> None:
        from target import all_targets
        from watch import Watch

        self.options = options
        self.watch = Watch()
        self.target = all_targets()[options.target](self.watch.inside)
        self.findings: dict[str, dict[str, Any]] = {}
        self.guided = False
        self.corpus: Path | None = None
        self.began = time.monotonic()

    def one(self, data: bytes) -> None:
        """Run one input; after the last, or when time is up, report and end the process."""
        from watch import Broken

        try:
            self.watch.run(self.target.run, data)
        except Broken as broken:
            self._note(broken, data)
        if (self.watch.count >= self.options.inputs
                or time.monotonic() - self.began > self.options.seconds):
            self.end()

    def _note(self, broken: BaseException, data: bytes) -> None:
        cause = broken.__cause__ or broken
        frames = [f for f in traceback.extract_tb(cause.__traceback__)
                  if "jupyter_ckpt" in f.filename and "/fuzz/" not in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        what = f"{type(cause).__name__} {where}"
        if what in self.findings or len(self.findings) >= MOST_FINDINGS:
            return
        kept = Path(self.options.findings) / f"{self.options.target}-{len(self.findings)}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
        self.findings[what] = {"what": f"{what}: {broken}", "input": str(kept)}
        print(f"{self.options.target}: {what}: {str(broken)[:400]}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Write the report and end the process: a fuzzer's loop has no other way out."""
        report = {"target": self.options.target, "inputs": self.watch.count,
                  "refused": self.watch.refused, "guided": self.guided,
                  "seconds": round(time.monotonic() - self.began, 1),
                  "findings": list(self.findings.values())}
        self.target.close()
        self.watch.close()
        if self.corpus is not None:
            shutil.rmtree(self.corpus, ignore_errors=True)
        Path(self.options.report).write_text(json.dumps(report))
        sys.stdout.flush()
        os._exit(0)

    def plain(self) -> None:
        """Feed random mutations of the seeds, and of mutations."""
        random = Random(self.options.seed)
        seeds = self.target.seeds()
        pool = list(seeds)
        for seed in seeds:
            self.one(seed)
        while True:
            data = self.target.mutate(random.choice(pool), random)
            self.one(data)
            if random.random() < 0.02:  # what was changed once is changed again
                pool = [*seeds, *pool[-50:], data]

    def coverage_guided(self, atheris: Any) -> None:
        """Let libFuzzer choose what to mutate further, by the lines and branches it reached."""
        self.guided = True

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            random = Random(seed)
            if random.random() < CORPUS_PART:
                return self.target.mutate(data, random)[:most]
            found: bytes = atheris.Mutate(data, min(most, 1 << 16))
            return found

        corpus = Path(tempfile.mkdtemp(prefix="ckpt-fuzz-"))
        self.corpus = corpus
        for number, seed in enumerate(self.target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], "-runs=2000000000", "-timeout=60", "-rss_limit_mb=3000",
                       "-max_len=65536", "-len_control=0", "-verbosity=0",
                       f"-seed={self.options.seed}", str(corpus)],
                      self.one, custom_mutator=mutate)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--report", required=True)
    parser.add_argument("--findings", default="fuzz-findings")
    parser.add_argument("--plain", action="store_true", help="not guided: the same each time")
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        atheris = None
    guided = atheris is not None and not options.plain and options.target not in UNGUIDED
    with atheris.instrument_imports(include=["jupyter_ckpt"]) if guided else nullcontext():
        run = Run(options)
    if guided:
        run.coverage_guided(atheris)
    else:
        run.plain()


if __name__ == "__main__":
    main()
