"""The soak: two kernels under write load, saved by schedule, while somebody kills all the time.

Every few seconds each kernel is saved by its schedule; every `KILL_EVERY_S`
seconds on average the server or the agent of kernel A is killed with -9.
Nobody touches the agent of kernel B: its memory shows whether an agent leaks.
Ends with exit code 0 only if nothing was lost and nothing has grown.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import load
from jupyter_harness import Home, Server, wait_until

from jupyter_ckpt.procfs import ProcessId, all_pids, rss_bytes
from jupyter_ckpt.store import Store

SAVE_EVERY_S, KEEP = 5, 5
KILL_EVERY_S = 20.0
SAMPLE_EVERY_S = 5.0
SETTLED_AFTER_S = 120.0
RSS_GROWTH = 1.2
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "RESULTS.md"


@dataclass
class Seen:
    """What the soak has counted and measured."""

    kills: dict[str, int] = field(default_factory=lambda: {"server": 0, "agent": 0})
    checkpoints: set[str] = field(default_factory=set)
    agent_rss: list[tuple[float, int]] = field(default_factory=list)
    agent_files: list[int] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    store_bytes: list[int] = field(default_factory=list)
    longest_gap_s: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Soak:
    """One run in `folder`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.home = Home(folder)
        self.random = random.Random(seed)
        self.seen = Seen()
        self.server = Server(self.home)
        self.kernels = {name: self._begin(name) for name in ("a", "b")}
        self.identity = {name: self._identity(name, "kernel") for name in self.kernels}

    def _begin(self, name: str) -> str:
        kernel_id = str(self.server.open_session(f"{name}.ipynb")["kernel"]["id"])
        with contextlib.closing(self.server.connect(kernel_id)) as channel:
            assert channel.run(load.BEGIN.format(name=name)) == "begun"
        self.server.ok("PUT", f"/api/ckpt/kernels/{kernel_id}/schedule",
                       {"every_s": SAVE_EVERY_S, "keep": KEEP})
        return kernel_id

    def _identity(self, name: str, who: str) -> ProcessId | None:
        return ProcessId.from_dict((self.home.record(self.kernels[name]) or {}).get(who))

    def run(self, duration_s: float) -> None:
        """Soak for `duration_s` seconds."""
        began = time.monotonic()
        next_kill = began + KILL_EVERY_S
        last: dict[str, dict[str, Any]] = {}
        while (now := time.monotonic()) < began + duration_s:
            if now >= next_kill:
                self._kill()
                next_kill = now + self.random.uniform(0.5, 1.5) * KILL_EVERY_S
            self._sample(now - began)
            for name in self.kernels:
                last[name] = self._ask(name, last.get(name))
            time.sleep(self.random.uniform(0.5, 1.0) * SAMPLE_EVERY_S)

    def _kill(self) -> None:
        who = self.random.choice(("server", "agent"))
        self.seen.kills[who] += 1
        if who == "server":
            self.server.kill()
            self.server = Server(self.home)
            return
        agent = self._identity("a", "agent")
        if agent is not None and agent.is_alive():
            os.kill(agent.pid, signal.SIGKILL)

    def _ask(self, name: str, before: dict[str, Any] | None) -> dict[str, Any]:
        """Ask a kernel whether it is whole and went on; note what is wrong."""
        with contextlib.closing(self.server.connect(self.kernels[name])) as channel:
            found: dict[str, Any] = json.loads(channel.run(load.ASK))
        self._expect(found["child"] == "hello", f"{name}: the child answers {found['child']!r}")
        self._expect(found["file_whole"], f"{name}: its file is not what it wrote")
        if before is not None:
            self._expect(found["beats"] > before["beats"], f"{name} stands still")
            self._expect(found["lines"] > before["lines"], f"{name} writes no more")
        self._expect(self._identity(name, "kernel") == self.identity[name],
                     f"{name} is another process")
        self.seen.longest_gap_s = max(self.seen.longest_gap_s, found["gap_s"])
        return found

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.seen.wrong.append(what)
            print(f"WRONG: {what}", flush=True)

    def _sample(self, at_s: float) -> None:
        rows = {row["kernel_id"]: row for row in self.server.ok("GET", "/api/ckpt/kernels")}
        self._expect(set(rows) == set(self.kernels.values()), f"the server shows {set(rows)}")
        self.seen.checkpoints |= {m.id for m in self.store.manifests()}
        self.seen.processes.append(len(our_processes(self.home.folder)))
        self.seen.store_bytes.append(disk_bytes(self.store.root))
        agent = self._identity("b", "agent")
        if agent is not None and agent.is_alive():
            self.seen.agent_rss.append((at_s, rss_bytes(agent.pid)))
            self.seen.agent_files.append(len(os.listdir(f"/proc/{agent.pid}/fd")))
        print(f"{at_s:6.0f} s  kills {self.seen.kills}  checkpoints made "
              f"{len(self.seen.checkpoints)}  processes {self.seen.processes[-1]}  store "
              f"{self.seen.store_bytes[-1] >> 20} MiB  agent B "
              f"{self.seen.agent_rss[-1][1] >> 20} MiB, {self.seen.agent_files[-1]} files",
              flush=True)

    @property
    def store(self) -> Store:
        return Store.open(self.home.folder / "data" / "ckpt")

    def finish(self) -> None:
        """See that every checkpoint is whole, that a session comes back, that nothing is left."""
        for kernel_id in self.kernels.values():
            self.server.ok("PUT", f"/api/ckpt/kernels/{kernel_id}/schedule", {"off": True})
            job = self.server.save(kernel_id)
            self._expect(job["state"] == "done", f"the last save: {job['error']}")
        self._expect(self.store.verify()["bad"] == [], "a checkpoint is damaged")
        for name, kernel_id in self.kernels.items():
            newest = next(m for m in self.store.manifests() if m.kernel["id"] == kernel_id)
            os.kill(self.identity[name].pid if self.identity[name] else 0, signal.SIGKILL)
            restored = self.server.ok("POST", f"/api/ckpt/checkpoints/{newest.id}/restore",
                                      {"mode": "new"})
            with contextlib.closing(self.server.connect(restored["kernel_id"])) as channel:
                found = json.loads(channel.run(load.ASK))
            self._expect(found["child"] == "hello" and found["file_whole"],
                         f"{name}: restored, but {found}")
        self.server.stop()
        self._judge_growth()

    def _judge_growth(self) -> None:
        seen = self.seen
        settled = [rss for at, rss in seen.agent_rss if at >= SETTLED_AFTER_S]
        if len(settled) >= 20:
            tenth = max(1, len(settled) // 10)
            first, last = (sorted(part)[len(part) // 2] for part in
                           (settled[:tenth], settled[-tenth:]))
            self._expect(last <= first * RSS_GROWTH, f"agent B grew from {first} to {last} bytes")
        middle = len(seen.agent_files) // 2
        self._expect(min(seen.agent_files[middle:]) <= min(seen.agent_files[:middle]) + 2,
                     "agent B leaks descriptors")
        half = len(seen.processes) // 2
        self._expect(min(seen.processes[half:]) <= min(seen.processes[:half]), "processes pile up")
        half = len(seen.store_bytes) // 2
        self._expect(max(seen.store_bytes[half:]) <= 1.5 * max(seen.store_bytes[:half]),
                     "the store grows beyond its retention")
        try:
            wait_until(lambda: not our_processes(self.home.folder), 30)
        except AssertionError:
            self._expect(False, f"left behind: {our_processes(self.home.folder)}")

    def report(self, duration_s: float) -> str:
        """Return the paragraph for RESULTS.md."""
        seen = self.seen
        rss = [value for at, value in seen.agent_rss if at >= SETTLED_AFTER_S] or [
            value for _, value in seen.agent_rss]
        return "\n".join((
            f"## Soak, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, "
            f"{os.cpu_count()} cores, Linux {platform.release()}", "",
            f"{duration_s / 60:.0f} minutes, two kernels that write all the time, each saved every "
            f"{SAVE_EVERY_S} s; killed with -9: the server {seen.kills['server']} times, the agent "
            f"of one kernel {seen.kills['agent']} times.", "",
            f"- checkpoints made: {len(seen.checkpoints)}",
            f"- things wrong: {len(seen.wrong)}",
            f"- longest silence of a kernel's 10 ms heartbeat: {seen.longest_gap_s:.2f} s",
            f"- resident memory of the agent nobody killed: {min(rss) >> 20} to "
            f"{max(rss) >> 20} MiB, descriptors {min(seen.agent_files)} to "
            f"{max(seen.agent_files)}",
            f"- processes of ours: {min(seen.processes)} to {max(seen.processes)}",
            f"- store: at most {max(seen.store_bytes) >> 20} MiB, "
            f"at the end {seen.store_bytes[-1] >> 20} MiB", ""))


def our_processes(folder: Path) -> list[int]:
    """Return the processes whose environment or command line names the soak's home."""
    found, name = [], str(folder).encode()
    for pid in all_pids():
        for kind in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                if name in Path(f"/proc/{pid}/{kind}").read_bytes() and pid != os.getpid():
                    found.append(pid)
                    break
    return found


def disk_bytes(folder: Path) -> int:
    """Return the bytes on disk below `folder`."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", dir="/var/tmp",
                                     ignore_cleanup_errors=True) as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            soak.run(options.minutes * 60)
            soak.finish()
        finally:
            soak.server.stop()
            soak.home.end_all_kernels()
        text = soak.report(options.minutes * 60)
    print(f"\n{text}")
    for line in soak.seen.wrong:
        print(f"WRONG: {line}")
    if options.record:
        with RESULTS.open("a") as results:
            results.write(f"\n{text}")
    return 1 if soak.seen.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
