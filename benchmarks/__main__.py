"""``python -m benchmarks``: exits 0 when every goal is met, 1 when one is missed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from demo.home import Home

from . import report, schedule, server_start
from .figures import Results, Row
from .ours import Ours
from .plain import Plain
from .processes import idle, pss_bytes, rss
from .sessions import POOL, POOL_ARRAY_BYTES, SMALL_CHANGE, mixed
from .subject import WORK, Saved

MB = 1e6
IDLE_S = 20.0
Tell = Callable[[str], None]


class Benchmark:
    """One run in one folder; every part adds its rows to `results`."""

    def __init__(self, home: Home, rounds: int, tell: Tell) -> None:
        self.home, self.rounds, self.tell = home, rounds, tell
        self.results = Results()

    def _folder(self, name: str) -> Path:
        folder = self.home.folder / name
        for inner in ("runtime", "data"):
            (folder / inner).mkdir(mode=0o700, parents=True)
        return folder

    def _pair(self, name: str, code: str) -> tuple[Ours, Plain]:
        self.tell(f"{name}: filling both sessions")
        return (Ours(self._folder(f"{name}-ours"), self.home.env, code),
                Plain(self._folder(f"{name}-plain"), self.home.env, code))

    def session(self, label: str, megabytes: int) -> None:
        """Save, kill and restore both, in turn, `rounds` times; then watch ours idle."""
        ours, plain = self._pair(label.replace(" ", "-"), mixed(megabytes))
        saves: tuple[list[Saved], list[Saved]] = ([], [])
        restores: tuple[list[float], list[float]] = ([], [])
        unpacking: list[float] = []
        for number in range(self.rounds):
            both = [(0, ours), (1, plain)]
            for which, subject in both if number % 2 == 0 else both[::-1]:
                saved = subject.save()
                subject.kill()
                if isinstance(subject, Plain):
                    unpacking.append(subject.unpack())
                restores[which].append(subject.restore())
                subject.tidy()
                saves[which].append(saved)
                self.tell(f"{label}, round {number + 1}, {('ours', 'plain')[which]}: paused "
                          f"{saved.pause_s:.2f} s, stored after {saved.stored_s:.2f} s "
                          f"({saved.stored_bytes / MB:.0f} MB; {saved.phases}), first answer "
                          f"{restores[which][-1]:.2f} s")
        self._compare(label, saves, restores, unpacking)
        self._idle(label, ours)
        if megabytes <= 200:
            self._second(label, ours)
        ours.end()
        plain.end()

    def _compare(
        self, label: str, saves: tuple[list[Saved], list[Saved]],
        restores: tuple[list[float], list[float]], unpacking: list[float],
    ) -> None:
        def row(name: str, unit: str, pick: Callable[[Saved], float], goal: float | None) -> None:
            self.results.rows.append(Row(f"{label}: {name}", unit, [pick(s) for s in saves[0]],
                                         [pick(s) for s in saves[1]], goal))

        row("pause", "s", lambda saved: saved.pause_s, 1.1)
        row("time to stored", "s", lambda saved: saved.stored_s, 1.0)
        row("bytes", "MB", lambda saved: saved.stored_bytes / MB, None)
        ours, plain = restores
        stored = [restore + unpack for restore, unpack in zip(plain, unpacking)]
        self.results.rows += [
            Row(f"{label}: restore to first answer, from what was stored", "s", ours, stored,
                goal=1.5),
            Row(f"{label}: restore to first answer, plain's images unpacked", "s", ours, plain,
                goal=1.5)]
        for name, each in zip(("ours", "plain"), saves):
            self.results.remarks.append(f"{label}, {name}, last round: {each[-1].phases} s.")

    def _idle(self, label: str, ours: Ours) -> None:
        ours.save()  # what a save leaves behind in the agent counts, too
        companions = ours.companions()
        found = idle(companions, IDLE_S)
        rows = self.results.rows
        rows.append(Row(f"{label}: agent and box, resident (PSS)", "MB",
                        [pss_bytes(companions) / MB], goal=60, absolute=True))
        rows.append(Row(f"{label}: agent and box, resident (RSS)", "MB", [rss(companions) / MB],
                        goal=60, absolute=True))
        rows.append(Row(f"{label}: agent and box, CPU when idle", "% of a core",
                        [100 * found.cpu_s / found.seconds], goal=0.1, absolute=True))
        self.results.remarks.append(
            f"{label}: agent and box woke up {found.wakeups} times in {found.seconds:.0f} idle s.")

    def _second(self, label: str, ours: Ours) -> None:
        ours.tidy()
        first = ours.save().stored_bytes
        ours.channel.run(SMALL_CHANGE)
        second = ours.save().stored_bytes
        self.results.rows.append(
            Row(f"{label}: second checkpoint after a small change", "% of the first",
                [100 * second / first], goal=25, absolute=True))

    def pool(self) -> None:
        """Save a kernel whose three fork workers share an array of 200 MB."""
        ours, plain = self._pair("fork-pool", POOL)
        rows, remarks = self.results.rows, self.results.remarks
        saved, peer = ours.save(), plain.save()
        assert ours.manifest is not None
        rows.append(Row("fork pool (3 workers, 200 MB shared): bytes", "MB",
                        [saved.stored_bytes / MB], [peer.stored_bytes / MB]))
        rows.append(Row("fork pool: stored, in arrays of 200 MB", "",
                        [saved.stored_bytes / POOL_ARRAY_BYTES],
                        [peer.stored_bytes / POOL_ARRAY_BYTES], goal=1.25, absolute=True))
        remarks.append(f"fork pool: CRIU wrote {ours.manifest.memory_bytes / MB:.0f} MB of pages "
                       f"for us and {plain.image_bytes() / MB:.0f} MB of images for plain.")
        ours.end()
        plain.end()


    def schedule(self) -> None:
        """Watch a session under a schedule, idle and busy."""
        schedule.measure(self.results, self._folder("schedule"), self.home.env, self.tell)


def main(argv: list[str] | None = None) -> int:
    """Run the parts that were asked for; print the table and append it to RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--title", default="make bench")
    parser.add_argument("--no-append", action="store_true", help="leave RESULTS.md alone")
    parser.add_argument("parts", nargs="*", metavar="PART",
                        help="1gb, 200mb, pool, server, schedule")
    options = parser.parse_args(argv)
    console = Console(highlight=False, width=max(Console().width, 120))
    if os.geteuid() != 0:
        console.print("The benchmark compares with plain criu, which has to be run by root.")
        return 4
    load = os.getloadavg()[0]

    def tell(text: str) -> None:
        console.print(f"  {text}", markup=False, style="dim")

    WORK.mkdir(exist_ok=True)
    with Home(WORK) as home:
        benchmark = Benchmark(home, options.rounds, tell)
        parts: dict[str, Callable[[], None]] = {
            "1gb": lambda: benchmark.session("1 GB", 1000),
            "200mb": lambda: benchmark.session("200 MB", 200),
            "pool": benchmark.pool,
            "server": lambda: server_start.measure(benchmark.results, options.rounds),
            "schedule": benchmark.schedule,
        }
        for name in options.parts or parts:
            parts[name]()
    results = benchmark.results
    report.show(console, results)
    if not options.no_append:
        report.append(results, report.machine(load), options.title)
        console.print(f"Appended to {report.FILE}")
    return 0 if all(row.met is not False for row in results.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
