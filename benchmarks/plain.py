"""The same session under plain CRIU: ``criu dump``, ``tar | zstd -1``, ``criu restore``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import zstandard
from jupyter_client.connect import write_connection_file

from jupyter_ckpt.engine.criu_find import find_criu

from .channel import Channel
from .processes import kill_abruptly, trees
from .subject import Saved, Subject

COMMON = ["--tcp-established", "--network-lock", "skip", "--file-locks",
          "--manage-cgroups=ignore", "--ghost-limit", "1G"]
PID_DEADLINE_S = 60.0
COMPRESSOR = "tar | zstd -1" if shutil.which("zstd") else "tar | python-zstandard level 1"


class Plain(Subject):
    """A kernel without anything of ours: a session leader, its output in a file."""

    def __init__(self, folder: Path, env: dict[str, str], code: str) -> None:
        self.criu = str(find_criu().path)
        self.folder = folder
        connection_file = folder / "kernel.json"
        write_connection_file(str(connection_file))
        with (folder / "kernel.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection_file)],
                cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        self.channel = Channel(connection_file)
        self.channel.open()
        self.channel.run(code)

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def _save(self) -> Saved:
        archive = self.folder / "images.tar.zst"
        self.images.mkdir()
        began = time.monotonic()
        self._criu("dump", "-t", str(self._process.pid), "--leave-running", "-o", "dump.log")
        dumped = time.monotonic()
        self._compress(archive)
        ended = time.monotonic()
        return Saved(0.0, ended - began, archive.stat().st_size,
                     f"dump {dumped - began:.2f}, compress {ended - dumped:.2f}")

    def tidy(self) -> None:
        # Both sides write into memory and disk that was free for a while.
        shutil.rmtree(self.images, ignore_errors=True)
        (self.folder / "images.tar.zst").unlink(missing_ok=True)

    def _compress(self, archive: Path) -> None:
        tar = subprocess.Popen(["tar", "-C", str(self.images), "-cf", "-", "."],
                               stdout=subprocess.PIPE)
        assert tar.stdout is not None
        with archive.open("wb") as out:
            if shutil.which("zstd"):
                subprocess.run(["zstd", "-1", "-q", "-c"], stdin=tar.stdout, stdout=out,
                               check=True)
            else:
                zstandard.ZstdCompressor(level=1).copy_stream(tar.stdout, out)
            os.fsync(out.fileno())  # ours is on stable storage, too, when it is done
        if tar.wait() != 0:
            raise RuntimeError("tar failed")

    def unpack(self) -> float:
        """Unpack the archive once more beside the images; return the seconds it takes."""
        folder = self.folder / "unpacked"
        folder.mkdir()
        began = time.monotonic()
        with (self.folder / "images.tar.zst").open("rb") as archive:
            tar = subprocess.Popen(["tar", "-C", str(folder), "-xf", "-"], stdin=subprocess.PIPE)
            assert tar.stdin is not None
            if shutil.which("zstd"):
                subprocess.run(["zstd", "-d", "-q", "-c"], stdin=archive, stdout=tar.stdin,
                               check=True)
            else:
                zstandard.ZstdDecompressor().copy_stream(archive, tar.stdin)
            tar.stdin.close()
        if tar.wait() != 0:
            raise RuntimeError("tar failed")
        taken = time.monotonic() - began
        shutil.rmtree(folder)
        return taken

    def _kill(self) -> None:
        kill_abruptly(trees([self._process.pid]))
        self._process.wait()
        deadline = time.monotonic() + PID_DEADLINE_S
        while Path(f"/proc/{self._process.pid}").exists():  # it is needed again
            if time.monotonic() > deadline:
                raise TimeoutError(f"Process id {self._process.pid} is still taken.")
            time.sleep(0.01)

    def _restore(self) -> None:
        self._criu("restore", "-d", "-o", "restore.log")

    def _criu(self, act: str, *arguments: str) -> None:
        done = subprocess.run([self.criu, act, "-D", str(self.images), *arguments, *COMMON],
                              cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              env={"PATH": os.environ.get("PATH", os.defpath)}, check=False)
        if done.returncode != 0:
            log = (self.images / f"{act}.log").read_text(errors="replace")
            raise RuntimeError(f"criu {act} failed:\n{log[-1500:]}")

    def image_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.images.iterdir())
