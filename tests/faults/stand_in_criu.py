"""A criu that runs the real one and misbehaves as the file ``scene`` beside it says.

Installed by `faults.stage` as an executable with the real one beside it in
``real/criu``. Without a scene it *is* the real one (it executes it), so it
passes every self-test. A scene is one line ``VERB NAME [NUMBER]`` and is played
once; ``played`` appears then. Its environment is not ours to use: the agent
gives criu a bare one.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REAL = os.path.join(HERE, "real", "criu")
SCENE = os.path.join(HERE, "scene")
PLAYED = os.path.join(HERE, "played")
HANG_MOST_S = 60.0


def main() -> int:
    argv = sys.argv[1:]
    scene = taken(argv[0] if argv else "")
    if scene is None:
        run_real(argv)
    name, number = scene
    images = argv[argv.index("-D") + 1]
    if name == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fails":
        log = argv[argv.index("-o") + 1]
        with open(os.path.join(images, log), "w") as out:
            out.write("(00.000001) Error (criu/stand-in.c:1): a stand-in was told to fail\n")
        return 1
    if name == "claims-success":
        return 0
    if name in ("truncates", "forgets"):
        return spoil(argv, images, name)
    if name == "killed-after-ms":
        return kill_after(argv, number / 1000)
    if name == "disk-full-after-kb":
        # What a full disk does, to this process alone: no file may grow beyond.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number * 1024, number * 1024))
    elif name == "hangs":
        hang()
        return 1
    elif name == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise SystemExit(f"no scene {name}")
    run_real(argv)
    return 1


def taken(verb: str) -> "tuple[str, int] | None":
    """Return (name, number) of the scene meant for this call, which is then played."""
    try:
        with open(SCENE) as file:
            words = file.read().split()
        if words[0] != verb:
            return None
        os.close(os.open(PLAYED, os.O_CREAT | os.O_EXCL, 0o600))
    except (FileNotFoundError, FileExistsError):
        return None
    return words[1], int(words[2]) if len(words) > 2 else 0


def run_real(argv: "list[str]") -> None:
    os.execv(REAL, ["criu", *argv])


def spoil(argv: "list[str]", images: str, how: str) -> int:
    status = subprocess.call([REAL, *argv])
    largest = max((os.path.join(images, name) for name in os.listdir(images)
                   if name.startswith("pages-")), key=os.path.getsize)
    if how == "truncates":
        os.truncate(largest, os.path.getsize(largest) // 2)
    else:
        os.unlink(largest)
    return status


def kill_after(argv: "list[str]", seconds: float) -> int:
    # Not a child of ours: whoever waits for criu waits for us, and so for it.
    criu = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(criu, signal.SIGKILL)
        os._exit(0)
    run_real(argv)
    return 1


def hang() -> None:
    deadline = time.monotonic() + HANG_MOST_S
    while os.path.exists(SCENE) and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
