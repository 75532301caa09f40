"""The shim keeps what is shared through /dev/shm nameable, and frees it in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_ckpt.native_build import native_path

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")

PRELUDE = """
import ctypes, ctypes.util, errno, gc, json, mmap, os, sys, time
HIDDEN = os.environ.get("JUPYTER_CKPT_SHM_HIDDEN", "/dev/shm/.box")
def hidden():
    return sorted(os.listdir(HIDDEN)) if os.path.isdir(HIDDEN) else []
def put(path, size=4096):
    with open(path, "wb") as f:
        f.write(b"x" * size)
    return path
def mapped(path):
    with open(path, "r+b") as f:
        return mmap.mmap(f.fileno(), 0)
def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        # Only a deletion looks for what can be freed, at most once a second.
        os.unlink(put("/dev/shm/trigger"))
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""


def run(code: str, hidden: str | None = None) -> str:
    """Run Python code with the shim, on a /dev/shm of its own."""
    environment = {**os.environ, "LD_PRELOAD": str(native_path("boxshim.so"))}
    environment.pop("JUPYTER_CKPT_SHM_HIDDEN", None)
    if hidden:
        environment["JUPYTER_CKPT_SHM_HIDDEN"] = hidden
    shell = 'mount -t tmpfs shm /dev/shm && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    done = subprocess.run(
        ["unshare", *user, "--mount", "sh", "-c", shell, "sh", sys.executable, "-c",
         PRELUDE + code],
        env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("delete", [
    'os.unlink("/dev/shm/a")',
    'os.chdir("/dev/shm"); os.unlink("a")',
    'os.unlink("a", dir_fd=os.open("/dev/shm", os.O_RDONLY))',
    'ctypes.CDLL(None).remove(b"/dev/shm/a")',
    'ctypes.CDLL(None).shm_unlink(b"/a")',
], ids=["unlink", "relative", "unlinkat", "remove", "shm_unlink"])
def test_delete_of_a_mapped_file_hides_it(delete: str) -> None:
    run(f"""
m = mapped(put("/dev/shm/a"))
{delete}
assert not os.path.exists("/dev/shm/a")
assert [name.split(".")[0] for name in hidden()] == ["a"]
assert any(HIDDEN + "/a." in line and "deleted" not in line for line in open("/proc/self/maps"))
""")


def test_delete_of_an_unused_file_frees_it() -> None:
    run("""
for number in range(8):  # at once, however many there are
    os.unlink(put(f"/dev/shm/a{number}"))
    assert not any(name.startswith("a") for name in hidden()), hidden()
""")


def test_delete_of_a_mapped_file_frees_it_after_the_unmapping() -> None:
    run("""
m = mapped(put("/dev/shm/a"))
os.unlink("/dev/shm/a")
wait_until(lambda: not any(name.startswith("trigger") for name in hidden()))
assert hidden()[0].startswith("a.")
m.close()
wait_until(lambda: not any(name.startswith("a.") for name in hidden()))
""")


def test_delete_of_a_file_another_process_maps_keeps_it() -> None:
    run("""
put("/dev/shm/a")
r, w = os.pipe()
r2, w2 = os.pipe()
if os.fork() == 0:
    m = mapped("/dev/shm/a"); os.write(w, b"k"); os.read(r2, 1); os._exit(0)
os.read(r, 1)
os.unlink("/dev/shm/a")
wait_until(lambda: not any(name.startswith("trigger") for name in hidden()))
assert any(name.startswith("a.") for name in hidden())
os.write(w2, b"k"); os.wait()
wait_until(lambda: not any(name.startswith("a.") for name in hidden()))
""")


def test_delete_elsewhere_is_a_plain_delete(tmp_path: Path) -> None:
    run(f"""
os.unlink(put("{tmp_path}/a"))
os.chdir("{tmp_path}"); put("b"); os.unlink("b")
assert os.listdir("{tmp_path}") == [] and hidden() == []
""")


def test_delete_errors_are_those_of_the_system() -> None:
    run("""
for path, number in (("/dev/shm/none", errno.ENOENT), ("/dev/shm/d", errno.EISDIR),
                     ("/nowhere/x", errno.ENOENT)):
    os.makedirs("/dev/shm/d", exist_ok=True)
    try:
        os.unlink(path)
    except OSError as error:
        assert error.errno == number, (path, error)
    else:
        raise AssertionError(path)
os.rmdir("/dev/shm/d")
assert ctypes.CDLL(None).remove(b"/dev/shm/.box") in (0, -1)
""")


def test_delete_with_two_names_or_a_symlink_is_a_plain_delete() -> None:
    run("""
os.link(put("/dev/shm/a"), "/dev/shm/b"); os.unlink("/dev/shm/b")
os.symlink("a", "/dev/shm/s"); os.unlink("/dev/shm/s")
assert hidden() == [] and os.listdir("/dev/shm") == ["a"]
""")


def test_hidden_folder_can_be_removed_with_its_content() -> None:
    run("""
import shutil
m = mapped(put("/dev/shm/a")); os.unlink("/dev/shm/a")
assert hidden()
shutil.rmtree(HIDDEN)
assert os.listdir("/dev/shm") == []
""")


def test_hidden_folder_of_the_environment_is_used() -> None:
    run("""
m = mapped(put("/dev/shm/a")); os.unlink("/dev/shm/a")
assert HIDDEN == "/dev/shm/.mine" and hidden() and os.listdir("/dev/shm") == [".mine"]
""", hidden="/dev/shm/.mine")


def test_hidden_folder_that_cannot_be_used_means_plain_delete() -> None:
    run("""
os.unlink(put("/dev/shm/a"))
assert os.listdir("/dev/shm") == []
""", hidden="/proc/impossible")


def test_semaphores_and_shared_memory_of_spawned_processes_work(tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text("""
import multiprocessing as mp, os
from multiprocessing import shared_memory

def work(lock, counter, name):
    block = shared_memory.SharedMemory(name)
    for _ in range(100):
        with lock:
            counter.value += 1
            block.buf[0] = (block.buf[0] + 1) % 251
    block.close()

if __name__ == "__main__":
    context = mp.get_context("spawn")
    lock, counter = context.Lock(), context.Value("i", 0)
    block = shared_memory.SharedMemory(create=True, size=1 << 20)
    workers = [context.Process(target=work, args=(lock, counter, block.name)) for _ in range(3)]
    [one.start() for one in workers]
    [one.join() for one in workers]
    assert (counter.value, block.buf[0]) == (300, 300 % 251)
    with context.Pool(2) as pool:
        assert pool.map(abs, range(-5, 5)) == [abs(x) for x in range(-5, 5)]
    maps = [line for line in open("/proc/self/maps") if "/dev/shm" in line]
    assert maps and not any("deleted" in line for line in maps), maps
    block.close(); block.unlink()
    print("fine")
""", encoding="utf-8")
    assert run(f"os.execv(sys.executable, [sys.executable, {str(script)!r}])") == "fine\n"


SEMAPHORES = """
libc = ctypes.CDLL(None, use_errno=True)
libc.sem_open.restype = ctypes.c_void_p
libc.sem_close.argtypes = libc.sem_trywait.argtypes = libc.sem_post.argtypes = [ctypes.c_void_p]
FAILED = None
def sem_open(name, flags=0, value=0):
    found = libc.sem_open(name, flags, 0o600, value)
    return found if found else ctypes.get_errno()
"""


def test_sem_open_twice_is_the_same_until_closed_twice() -> None:
    run(SEMAPHORES + """
first = sem_open(b"/s", os.O_CREAT, 1)
assert sem_open(b"/s") == first and sem_open(b"/s", os.O_CREAT, 7) == first
assert libc.sem_trywait(first) == 0 and libc.sem_trywait(first) == -1
assert [libc.sem_close(first) for _ in range(4)] == [0, 0, 0, -1]
assert ctypes.get_errno() == errno.EINVAL
""")


def test_sem_open_errors_are_those_of_posix() -> None:
    run(SEMAPHORES + """
assert sem_open(b"/none") == errno.ENOENT
sem_open(b"/s", os.O_CREAT, 0)
assert sem_open(b"/s", os.O_CREAT | os.O_EXCL, 0) == errno.EEXIST
assert sem_open(b"/a/b", os.O_CREAT, 0) == errno.EINVAL
assert sem_open(b"/big", os.O_CREAT, 0x80000000) == errno.EINVAL
open("/dev/shm/sem.empty", "w").close()
assert sem_open(b"/empty") == errno.EINVAL
assert libc.sem_unlink(b"/none") == -1 and ctypes.get_errno() == errno.ENOENT
assert libc.sem_unlink(b"/s") == 0 and sem_open(b"/s") == errno.ENOENT
assert not [name for name in os.listdir("/dev/shm") if name.startswith(".sem")]
""")


def test_sem_open_leaves_no_mapping_without_a_name() -> None:
    run(SEMAPHORES + """
sem_open(b"/s", os.O_CREAT, 0); libc.sem_unlink(b"/s")
maps = [line for line in open("/proc/self/maps") if "/dev/shm" in line]
assert len(maps) == 1 and "sem.s" in maps[0] and "deleted" not in maps[0], maps
""")


def test_io_uring_is_not_there_and_other_calls_pass() -> None:
    run("""
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 8, None) == -1 and ctypes.get_errno() == errno.ENOSYS
assert libc.syscall(39) == os.getpid() or os.uname().machine != "x86_64"
""")
