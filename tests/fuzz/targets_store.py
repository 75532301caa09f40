"""The store: manifests, content trees, chunks, and what a restore reads out of them."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

from mutation import json_mutator
from target import Target

from jupyter_ckpt.cli.main import main
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.store import Store, signing, tree
from jupyter_ckpt.store.chunks import ChunkReader, digest_of, file_name
from jupyter_ckpt.store.content import Content
from jupyter_ckpt.store.layout import Layout

KEY = bytes(range(32))
ID = "0123456789abcdef"
FULL = Manifest(
    id=ID, created_at="2026-01-02T03:04:05.678Z", content="0" * 64, name="golden one", note="Füße",
    pinned=True, parent="fedcba9876543210", trigger="magic", mode="root",
    kernel={"id": "k-12345", "name": "python3", "language": "python", "execution_count": 7,
            "busy": True, "running": {"msg_id": "m", "cell_id": "c", "session": "s",
                                      "execution_count": 8}},
    notebook={"path": "/home/user/a.ipynb", "sha256": "0" * 64},
    processes=[{"pid": 12, "ppid": 11, "name": "python", "rss_bytes": 4096}],
    memory_bytes=4096, stored_bytes=17, pause_s=0.05, duration_s=1.5,
    files=[{"path": "/tmp/x.csv", "role": "write", "saved": True, "size_bytes": 5, "mtime_ns": 1,
            "mode": 420, "content": "files/0"}],
    host={"hostname": "h", "machine": "x86_64", "kernel_release": "6.18", "uid": 0},
    warnings=["w"]).to_dict()


class ManifestBytes(Target):
    """A manifest file with any bytes in it."""

    name = "manifest-unsigned"
    weight = 4
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [signing.sealed(FULL, KEY), json.dumps({"manifest": FULL, "signature": "0" * 64},
                                                      indent=1).encode()]

    def run(self, data: bytes) -> None:
        Manifest.from_dict(signing.opened(data, KEY, ID))


class SignedManifest(Target):
    """A manifest whose signature is right and whose content is odd: it is shown, too."""

    name = "manifest-signed"
    weight = 4
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [json.dumps(FULL).encode()]

    def run(self, data: bytes) -> None:
        from jupyter_ckpt.cli.show import _summary

        try:
            sealed = signing.sealed(json.loads(data), KEY)
        except (ValueError, TypeError, RecursionError, AttributeError):
            return  # nobody can sign that
        manifest = Manifest.from_dict(signing.opened(sealed, KEY, ID))
        signing.sealed(manifest.to_dict(), KEY)
        _summary(manifest)


class ContentTree(Target):
    """The list of files and chunks."""

    name = "content-tree"
    weight = 4
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        chunk = digest_of(b"chunk")
        return [tree.encode([
            tree.Entry("images/pages-1.img", 0o600, 70_005, [(chunk, 5), (None, 70_000)]),
            tree.Entry("restore.json", 0o600, 5, [(chunk, 5)]), tree.Entry("empty", 0o644, 0, [])])]

    def run(self, data: bytes) -> None:
        for entry in tree.decode(data):
            tree.encode([entry])


class InStore(Target):
    """A target with a store of one checkpoint."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = Store.open(folder / "store")
        (self.store.root / "key").write_bytes(KEY)
        self.layout = Layout(self.store.root)
        source = folder / "source"
        source.write_bytes(b"text " * 30_000 + os.urandom(100_000) + bytes(100_000))
        with self.store.transaction("fuzz-seed") as transaction:
            transaction.add_file("images/pages-1.img", source)
            transaction.add_bytes("restore.json", b'{"a": 1}' * 20)
            self.saved = transaction.commit(Manifest.from_dict(
                {**FULL, "id": "aaaaaaaaaaaaaaaa", "name": "whole"}))
        source.unlink()

    def put_chunk(self, digest: bytes, stored: bytes) -> Path:
        path = self.layout.chunks / file_name(digest)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(stored)
        return path


class Chunk(InStore):
    """A chunk file with any bytes in it, under a name that it does not deserve."""

    name = "chunk"
    weight = 3

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        raw = b"text " * 13_000
        self.digest, self.size = digest_of(raw), len(raw)
        self.reader = ChunkReader(self.layout.chunks)
        self.path = self.put_chunk(self.digest, b"")

    def seeds(self) -> list[bytes]:
        framed = [path.read_bytes() for path in self.layout.chunks.rglob("*")
                  if path.is_file() and path.read_bytes().startswith(b"JCZ1")]
        return [*framed, b"text " * 13_000]

    def run(self, data: bytes) -> None:
        self.path.write_bytes(data)
        self.reader.is_whole(self.digest, self.size)
        try:
            assert digest_of(self.reader.read(self.digest)) == self.digest
        except CheckpointError:
            self.reader.read(self.digest, self.size)

    def close(self) -> None:
        self.reader.close()


class Contents(InStore):
    """A content tree under its right hash: everything that a restore does with one."""

    name = "content"
    weight = 0.5
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        with closing(ChunkReader(self.layout.chunks)) as reader:
            own = bytes(reader.read(bytes.fromhex(self.saved.content)))
        small = [{"name": "a/b", "mode": 384, "size_bytes": 9, "chunks": [[None, 9]]},
                 {"name": "c", "mode": 420, "size_bytes": 0, "chunks": []}]
        return [own, json.dumps(small).encode()]

    def run(self, data: bytes) -> None:
        digest = digest_of(data)
        path = self.put_chunk(digest, data)
        manifest = Manifest.from_dict({**FULL, "content": digest.hex()})
        target = self.folder / "out"
        try:
            content = Content(self.layout, manifest)
            with suppress(CheckpointError):
                content.materialise(target)
            with suppress(CheckpointError):
                content.prove()
            for entry in content.entries[:3]:
                content.read(entry.name)
        finally:
            path.unlink()
            _remove(target)


class ManifestFolder(InStore):
    """Any file among the manifests: it hides no other and ends no command."""

    name = "manifest-folder"
    weight = 0.4
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [signing.sealed(FULL, KEY)]

    def run(self, data: bytes) -> None:
        (self.layout.manifests / f"{ID}.json").write_bytes(data)
        assert self.saved in self.store.manifests()
        self.store.problems()
        assert self.store.verify()["checked"] == 2
        with suppress(CheckpointError):
            self.store.collect()
        assert self.store.read_file(self.saved, "restore.json")
        self.store.update(ID, note="changed")


class Quota(InStore):
    """The quota and the remembered use of a store."""

    name = "quota"
    weight = 0.2
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [b'{"size_bytes": 1000000}',
                json.dumps({"size_bytes": 70, "counted_at_s": time.time()}).encode()]

    def run(self, data: bytes) -> None:
        (self.store.root / "usage.json").write_bytes(data)
        assert self.store.usage_bytes() is not None
        (self.store.root / "quota.json").write_bytes(data)
        self.store.quota_bytes()


class ListAndShow(InStore):
    """``list`` and ``show`` of a checkpoint with a right signature and odd content."""

    name = "cli-show"
    weight = 0.15
    mutate = staticmethod(json_mutator)

    def seeds(self) -> list[bytes]:
        return [json.dumps(FULL).encode()]

    def run(self, data: bytes) -> None:
        try:
            stored = signing.sealed({**json.loads(data), "id": ID}, KEY)
        except (ValueError, TypeError, RecursionError):
            return
        (self.layout.manifests / f"{ID}.json").write_bytes(stored)
        for words in (("list",), ("show", ID), ("list", "--json")):
            run_cli([*words, "--store", str(self.store.root)])


def run_cli(words: list[str]) -> None:
    """Run the command line on `words`; fail unless it ends as documented."""
    kept = sys.stdout, sys.stderr
    # As the command opens them: what cannot be printed is shown as an escape.
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    try:
        code = main(words)
        said = sys.stdout.buffer.getvalue() + sys.stderr.buffer.getvalue()  # type: ignore
    finally:
        sys.stdout, sys.stderr = kept
    assert code in (0, 2, 3, 4, 5, 6, 7), f"exit {code} of {words}: {said[-300:]!r}"


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    for top, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(top, name))
        for name in folders:
            os.rmdir(os.path.join(top, name))
    os.rmdir(folder)

