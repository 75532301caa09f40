"""Trees that hold things: what the preflight says of each, and what CRIU does with it.

Run as a program it prints, for each program named on its command line (or all),
``{name: {"unavailable": reason} | {"kinds": [...], "text": ..., "failed": error or null}}``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jupyter_ckpt.box import ROOT_PID, NamespaceBox
from jupyter_ckpt.engine.criu import GHOST_LIMIT_BYTES, Criu
from jupyter_ckpt.engine.criu_find import find_criu
from jupyter_ckpt.engine.preflight import findings
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.native_build import native_path
from jupyter_ckpt.procfs import pids_in_box

PROGRAM_PID = 102
"""Of the program in its box: its root starts it first."""
START_DEADLINE_S = 20.0

_HEAD = """
import ctypes, fcntl, mmap, os, signal, socket, struct, subprocess, sys, threading, time, traceback
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = libc.shmat.restype = libc.mmap.restype = ctypes.c_long
def done(result):
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def child(*argv):
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if process.stdout.readline() != b"ready\\n":
        raise OSError("the child did not start: " + repr(process.stdout.read()))
    return process
SLEEPER = ("sh", "-c", "echo ready; exec sleep 1000")
os.chdir(sys.argv[1])
outside = sys.argv[2]
try:
"""
_TAIL = """
except Exception:
    open("unavailable", "w").write(traceback.format_exc().splitlines()[-1])
os.rename(os.open("starting", os.O_CREAT) and "starting", "ready")
time.sleep(1000)
"""

# name: (the kind that is to be found, the modes in which it cannot be saved, the program)
ALL, UNPRIVILEGED, ROOT = ("root", "rootless"), ("rootless",), ("root",)
UNSAVED: dict[str, tuple[str, tuple[str, ...], str]] = {
    "io_uring": ("io-uring", ALL,
                 "f = done(libc.syscall(425, 8, ctypes.create_string_buffer(120)))"),
    "userfaultfd": ("userfaultfd", ALL, "f = done(libc.syscall(323, 1))"),
    "perf": ("anonymous", ALL, """
a = bytearray(128); struct.pack_into("IIQ", a, 0, 1, 128, 0); a[40] = 0x60
f = done(libc.syscall(298, (ctypes.c_char * 128).from_buffer(a), 0, -1, -1, 0))"""),
    "bpf": ("anonymous", ALL,
            'f = done(libc.syscall(321, 0, struct.pack("IIII", 2, 4, 8, 1) + bytes(56), 72))'),
    "landlock": ("anonymous", ALL,
                 'f = done(libc.syscall(444, struct.pack("QQQ", 1, 0, 0), 8, 0))'),
    "device": ("device", ALL, 'f = os.open("/dev/fuse", os.O_RDWR)'),
    "tun": ("device", ALL, 'f = os.open("/dev/net/tun", os.O_RDWR)'),
    "terminal": ("device", ALL, 'f = os.open("/dev/tty0", os.O_RDWR | os.O_NOCTTY)'),
    "vsock": ("socket", ALL, "s = socket.socket(40, socket.SOCK_STREAM)"),
    "mptcp": ("socket", ALL, """
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.bind(("127.0.0.1", 0)); s.listen()"""),
    "unix stream": ("unix-connection", ALL,
                    's = socket.socket(socket.AF_UNIX); s.connect(outside + "/stream")'),
    "unix datagram": ("unix-datagram", ALL, """
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect(outside + "/datagram")"""),
    "unix stream not accepted": ("unix-connection", ALL, """
s = socket.socket(socket.AF_UNIX); s.connect(outside + "/stream")"""),
    "unix backlog with data": ("unix-backlog", ALL, """
l = socket.socket(socket.AF_UNIX); l.bind("l"); l.listen()
s = socket.socket(socket.AF_UNIX); s.connect("l"); s.send(b"x")"""),
    "unix backlog of the closed": ("unix-backlog", ALL, """
l = socket.socket(socket.AF_UNIX); l.bind("l"); l.listen()
s = socket.socket(socket.AF_UNIX); s.connect("l"); s.close()"""),
    "tcp backlog": ("tcp-backlog", ALL, """
l = socket.create_server(("127.0.0.1", 0)); s = socket.create_connection(l.getsockname())"""),
    "tcp backlog of the closed": ("tcp-backlog", ALL, """
l = socket.create_server(("::1", 0), family=socket.AF_INET6)
s = socket.create_connection(l.getsockname()[:2]); s.close()"""),
    "inotify": ("inotify", UNPRIVILEGED,
                'f = done(libc.inotify_init()); done(libc.inotify_add_watch(f, b".", 2))'),
    "fanotify": ("fanotify", UNPRIVILEGED, """
f = done(libc.fanotify_init(0x200, 0))
done(libc.fanotify_mark(f, 1, ctypes.c_ulonglong(2), -100, os.getcwd().encode()))"""),
    "pidfd of outside": ("outer-pidfd", ALL, "f = os.pidfd_open(1)"),
    "large deleted file": ("deleted-file", ALL, """
f = open("g", "w+b"); os.posix_fallocate(f.fileno(), 0, 1100 << 20); os.unlink("g")"""),
    "open file with another link": ("unlinked-file", ALL, """
f = open("g", "w+b"); os.link("g", "h"); os.unlink("g")"""),
    "replaced file with another link": ("unlinked-file", ALL, """
f = open("g", "w+b"); os.link("g", "h"); open("n", "w").close(); os.rename("n", "g")"""),
    "secret memory": ("secret-memory", ALL, "f = done(libc.syscall(447, 0))"),
    "message queue": ("outer-file", ALL, """
f = done(libc.mq_open(b"/ckpt-held", 0o102, 0o600, None)); libc.mq_unlink(b"/ckpt-held")"""),
    "mount": ("inner-mount", ALL, """
os.mkdir("m"); done(libc.mount(b"t", os.getcwd().encode() + b"/m", b"tmpfs", 0, None))
f = open("m/x", "w")"""),
    "sysv": ("sysv-shared-memory", ALL, """
i = done(libc.shmget(0, 4096, 0o1600)); a = libc.shmat(i, None, 0); libc.shmctl(i, 0, None)
done(a)"""),
    "aio": ("aio", UNPRIVILEGED, "done(libc.syscall(206, 8, ctypes.byref(ctypes.c_ulong(0))))"),
    "replaced program": ("deleted-mapping", UNPRIVILEGED, """
import shutil
shutil.copy(shutil.which("sleep"), "program"); p = subprocess.Popen(["./program", "1000"])
os.stat(f"/proc/{p.pid}/exe"); os.unlink("program")"""),
    "replaced program with another link": ("unlinked-mapping", ALL, """
import shutil
shutil.copy(shutil.which("sleep"), "program"); os.link("program", "cached")
p = subprocess.Popen(["./program", "1000"])
os.stat(f"/proc/{p.pid}/exe"); open("n", "w").close(); os.rename("n", "program")"""),
    "replaced library with another link": ("unlinked-mapping", ALL, """
f = open("g", "w+b"); f.truncate(4096); done(libc.mmap(None, 4096, 1, 2, f.fileno(), 0))
f.close(); os.link("g", "h"); os.unlink("g")"""),
    "traced": ("traced", ALL, """
p = child(*SLEEPER); done(libc.ptrace(16, p.pid, 0, 0)); os.waitpid(p.pid, 0x40000000)
done(libc.ptrace(7, p.pid, 0, 0))"""),
    "dead main thread": ("dead-leader", ALL, """
def tell():
    while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z": time.sleep(.005)
    open("ready", "w").close(); time.sleep(1000)
threading.Thread(target=tell).start()
libc.pthread_exit(None)"""),
    "program in memory": ("memory-program", ALL, """
import shutil
f = os.memfd_create("x"); os.write(f, open(shutil.which("cat"), "rb").read())
p = subprocess.Popen([f"/proc/self/fd/{f}"], stdin=subprocess.PIPE, pass_fds=[f])"""),
    "deadline": ("deadline-scheduling", ALL, """
done(libc.syscall(314, 0, struct.pack("IIQiIQQQ", 48, 6, 0, 0, 0, 10**6, 10**7, 10**7), 0))"""),
    "seccomp": ("seccomp", UNPRIVILEGED, """
done(libc.prctl(38, 1, 0, 0, 0))
b = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
done(libc.prctl(22, 2, struct.pack("HxxxxxxQ", 1, ctypes.addressof(b))))"""),
    "user namespace": ("namespace", ALL, 'p = child("unshare", "-Ur", *SLEEPER)'),
    "network namespace": ("namespace", ALL, 'p = child("unshare", "-n", *SLEEPER)'),
    "mount namespace": ("namespace", ALL, 'p = child("unshare", "-m", *SLEEPER)'),
}
OTHERWISE = {("rootless", "unlinked-mapping"): "deleted-mapping"}
"""What a kind is called where nothing but that is to be known."""
SAVED = """
import pty
held = [socket.socketpair(), pty.openpty(), os.pipe(), os.eventfd(0), os.memfd_create("x")]
a, b = socket.socketpair(); b.close()
p = child(*SLEEPER); held.append(os.pidfd_open(p.pid))
q = subprocess.Popen(["true"]); gone = os.pidfd_open(q.pid); q.wait()
zombie = subprocess.Popen(["true"])
done(libc.inotify_init())
g = open("g", "w+b"); g.truncate(2 << 30); os.unlink("g")
d = [os.open(f"/dev/{n}", os.O_RDWR) for n in ("null", "zero", "full", "urandom", "ptmx")]
n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); n.bind((0, 0))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0))
m = mmap.mmap(-1, 4096)
l = socket.socket(socket.AF_UNIX); l.bind("l"); l.listen()
c = socket.socket(socket.AF_UNIX); c.connect("l"); e, _ = l.accept()
w = socket.socket(socket.AF_UNIX); w.connect("l")
s = subprocess.Popen(["sleep", "1000"]); os.kill(s.pid, signal.SIGSTOP)
os.mkfifo("f"); f = os.open("f", os.O_RDWR); t = os.open(".", os.O_TMPFILE | os.O_RDWR)
x = open("x (deleted)", "w")
r = open("/proc/self/status"); o = os.open(".", os.O_PATH)
"""


class Listening:
    """Two unix sockets of a program outside of every tree."""

    def __init__(self, folder: Path) -> None:
        self.sockets = []
        for name, kind in (("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)):
            sock = socket.socket(socket.AF_UNIX, kind)
            sock.bind(str(folder / name))
            self.sockets.append(sock)
        self.sockets[0].listen(1)

    def accept(self) -> None:
        """Take the connection that a tree has made, if it has made one."""
        self.sockets[0].settimeout(0.5)
        self.sockets.append(self.sockets[0].accept()[0])

    def connect(self, path: Path) -> None:
        """Ask something of a tree, which does not accept, and stay connected."""
        self.sockets.append(socket.socket(socket.AF_UNIX))
        self.sockets[-1].connect(str(path))
        self.sockets[-1].sendall(b"question")


def outcome(mode: str, name: str) -> dict[str, Any]:
    """Start one tree, look at it, dump it and bring it back."""
    program = SAVED if name == "saved" else UNSAVED[name][2]
    folder = Path(tempfile.mkdtemp(prefix="ckpt-held-", dir="/var/tmp"))
    for each in ("images", "runtime", "tree", "outside"):
        (folder / each).mkdir()
    (folder / "ckpt-notify").symlink_to(native_path("ckpt-box"))
    outside = Listening(folder / "outside")
    body = "".join(f"    {line}\n" for line in program.strip().splitlines())
    box = NamespaceBox.create(native_path("ckpt-box"), folder / "runtime", mode)
    try:
        argv = [sys.executable, "-c", _HEAD + body + _TAIL,
                str(folder / "tree"), str(folder / "outside")]
        environment = {n: v for n, v in os.environ.items() if n != "LD_PRELOAD"}
        box.start_root(argv, environment, "/", 0o022)
        deadline = time.monotonic() + START_DEADLINE_S
        while not (folder / "tree" / "ready").exists():
            assert time.monotonic() < deadline, "the program did not start"
            time.sleep(0.005)
        if (folder / "tree" / "unavailable").exists():
            return {"unavailable": (folder / "tree" / "unavailable").read_text()}
        if name == "unix stream":
            outside.accept()
        if name == "saved":
            outside.connect(folder / "tree" / "l")
        pids = pids_in_box(box.init.pid)
        found = findings(pids[ROOT_PID], mode, GHOST_LIMIT_BYTES)
        criu = Criu(find_criu().path, mode, folder / "ckpt-notify")
        failed = None
        try:
            criu.dump(ROOT_PID, folder / "images", box.command, lambda: None)
            box.stop()
            box = NamespaceBox.create(native_path("ckpt-box"), folder / "runtime", mode, 400)
            criu.restore(folder / "images", box.command)
        except CheckpointError as error:
            failed = error.message
        return {"pid": pids.get(PROGRAM_PID), "kinds": [f.kind for f in found],
                "text": "; ".join(map(str, found)), "advice": [f.advice for f in found],
                "failed": failed}
    finally:
        box.stop()
        shutil.rmtree(folder)


def main() -> None:
    mode, *names = sys.argv[1:]
    print(json.dumps({name: outcome(mode, name) for name in names or [*UNSAVED, "saved"]}))


if __name__ == "__main__":
    main()
