"""The routes of a real Jupyter server, whose agents are stand-ins."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from random import Random

from mutation import json_mutator, mutated_bytes, mutated_text
from target import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jupyter_harness import TOKEN, Home, Server

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
SEEDS: list[tuple[str, str, object]] = [
    ("GET", "kernels", None), ("POST", "kernels/some-kernel/checkpoints", {"name": "x"}),
    ("GET", "kernels/some-kernel/running", None), ("GET", "kernels/some-kernel/schedule", None),
    ("PUT", "kernels/some-kernel/schedule", {"every": "10m"}),
    ("POST", "kernels/some-kernel/fork", {"n": 1}), ("GET", "jobs/some-job-id", None),
    ("GET", "checkpoints?notebook=a.ipynb&kernel_id=k", None), ("GET", "checkpoints/abcdef", None),
    ("PATCH", "checkpoints/abcdef", {"name": "n", "note": None, "pinned": True}),
    ("DELETE", "checkpoints/abcdef", None), ("GET", "checkpoints/abcdef/notebook", None),
    ("POST", "checkpoints/abcdef/restore", {"mode": "new", "files": "keep", "path": "a.ipynb"})]
MOST_GROWTH_KB = 100_000


def mutated_request(data: bytes, random: Random) -> bytes:
    """Return a request with its verb, a part of its path or its body changed."""
    try:
        verb, path, body = json.loads(data)
        assert isinstance(path, str) and isinstance(body, str)
    except (ValueError, TypeError, AssertionError, RecursionError):
        verb, path, body = "GET", "checkpoints", ""
    act = random.random()
    if act < 0.1:
        verb = random.choice(VERBS)
    elif act < 0.4:
        parts = path.split("/")
        place = random.randrange(len(parts))
        parts[place] = mutated_text(parts[place], random)
        path = "/".join(parts)
    elif act < 0.9:
        body = json_mutator(body.encode("utf-8", "replace"), random).decode("latin-1")
    else:
        body = mutated_bytes(body.encode("utf-8", "replace"), random).decode("latin-1")
    return json.dumps([verb, path, body]).encode()


class Rest(Target):
    """Every route, every verb, with odd ids and bodies; the server goes on."""

    name = "rest"
    weight = 0.35
    mutate = staticmethod(mutated_request)

    def __init__(self, folder: Path) -> None:
        import server_fakes

        super().__init__(folder)
        home = Home(folder / "home")
        home.configure(server_fakes.CONFIGURATION)
        self.server = Server(home)
        self.line = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        self.memory_kb = 0
        self.count = 0

    def seeds(self) -> list[bytes]:
        return [json.dumps([verb, path, json.dumps(body) if body is not None else ""]).encode()
                for verb, path, body in SEEDS]

    def run(self, data: bytes) -> None:
        try:
            verb, path, body = json.loads(data)
            raw = body.encode("latin-1", "replace")
        except (ValueError, TypeError, AttributeError, RecursionError):
            return
        if verb not in VERBS or not isinstance(path, str):
            return
        target = "".join(c if 33 <= ord(c) < 127 else "".join(
            f"%{byte:02x}" for byte in c.encode("utf-8", "surrogatepass")) for c in path)
        try:
            self.line.request(verb, f"/api/ckpt/{target}"[:60_000], raw, {
                "Authorization": f"token {TOKEN}", "Content-Type": "application/json"})
            answer = self.line.getresponse()
            said = answer.read()
        except (http.client.HTTPException, ConnectionError):
            self.line.close()  # tornado closes on what is no HTTP
            assert self.server.process.poll() is None, "the server has ended"
            return
        assert answer.status < 500 or answer.status in (501, 503), (
            f"{verb} {path[:200]} {raw[:200]!r}: {answer.status} {said[:300]!r}")
        if answer.status >= 400 and said and answer.headers.get_content_subtype() == "json":
            assert "message" in json.loads(said)
        self._check_memory()

    def _check_memory(self) -> None:
        self.count += 1
        if self.count % 1000:
            return
        pid = self.server.process.pid
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            present = int(statm.read().split()[1]) * 4
        self.memory_kb = self.memory_kb or present
        assert present < self.memory_kb + MOST_GROWTH_KB, f"the server grew to {present} kB"
        assert len(os.listdir(f"/proc/{pid}/fd")) < 300, "the server leaks descriptors"

    def close(self) -> None:
        self.line.close()
        self.server.home.end_all_kernels()
        self.server.stop()
