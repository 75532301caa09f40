"""Names of unix sockets: there again when all was lost, never taken from the original."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from session_kit import Shell, Talker, shell_in

MANAGER = """
import multiprocessing, threading
manager = multiprocessing.Manager()
shared = manager.dict()
def in_new_thread(name, value):  # which connects to the manager anew, by its name
    thread = threading.Thread(target=lambda: shared.__setitem__(name, value))
    thread.start(); thread.join()
in_new_thread('who', 'original')
print(manager.address)
"""
READ = "in_new_thread('seen', True); print(shared.copy())"


@pytest.fixture(params=["root", "rootless"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    with shell_in(request.param) as found:
        yield found


def talk(connection_file: str, code: str) -> str:
    talker = Talker(connection_file)
    try:
        return talker.run(code)
    finally:
        talker.close()


def test_folder_of_a_socket_that_is_gone_is_made_again(shell: Shell) -> None:
    """As after a restart of the machine, which empties /tmp."""
    kernel = shell.start()
    address = talk(kernel["connection_file"], MANAGER)
    saved = shell.ckpt("save", kernel["kernel_id"])
    shell.ckpt("stop", kernel["kernel_id"])
    shutil.rmtree(os.path.dirname(address))
    restored = shell.ckpt("restore", saved["id"])
    assert os.path.dirname(address) in restored["warnings"][0]
    assert talk(restored["connection_file"], READ) == "{'who': 'original', 'seen': True}"
    shutil.rmtree(os.path.dirname(address))


def test_folder_of_a_socket_that_cannot_be_made_refuses_the_restore(shell: Shell) -> None:
    kernel = shell.start()
    folder = str(shell.home / "own")
    talk(kernel["connection_file"], f"import os; os.makedirs({folder + '/in'!r})")
    talk(kernel["connection_file"], LISTEN.format(name=f"{folder}/in/own.sock"))
    saved = shell.ckpt("save", kernel["kernel_id"])
    shell.ckpt("stop", kernel["kernel_id"])
    shutil.rmtree(folder)
    Path(folder).write_text("a file in its way")
    code, error = shell.refused("restore", saved["id"])
    assert (code, error["id"]) == (6, "restore-refused")
    assert f"{folder}/in" in error["message"]
    os.unlink(folder)
    restored = shell.ckpt("restore", saved["id"])
    assert talk(restored["connection_file"], "print(listener.getsockname())").endswith("own.sock")


def test_copy_and_original_have_each_a_socket_of_that_name(shell: Shell) -> None:
    kernel = shell.start()
    talk(kernel["connection_file"], MANAGER)
    (copy,) = shell.ckpt("fork", kernel["kernel_id"])
    talk(copy["connection_file"], "in_new_thread('who', 'copy')")
    assert talk(kernel["connection_file"], READ) == "{'who': 'original', 'seen': True}"
    shell.ckpt("stop", kernel["kernel_id"])
    assert talk(copy["connection_file"], READ) == "{'who': 'copy', 'seen': True}"
    saved = shell.ckpt("save", copy["kernel_id"])
    shell.ckpt("stop", copy["kernel_id"])
    again = shell.ckpt("restore", saved["id"])
    assert talk(again["connection_file"], READ) == "{'who': 'copy', 'seen': True}"


LISTEN = """
import socket
listener = socket.socket(socket.AF_UNIX)
listener.bind({name!r}); listener.listen()
"""
ACCEPT = "print(listener.accept()[0].recv(10).decode())"
KNOCK = """
import socket
with socket.socket(socket.AF_UNIX) as visitor:
    visitor.connect({name!r}); visitor.sendall(b'knock')
"""


@pytest.mark.parametrize("place", ["among files", "abstract"])
def test_copy_leaves_a_name_that_cannot_be_two_to_the_original(
    shell: Shell, place: str, tmp_path: Path
) -> None:
    name = str(shell.home / "own.sock") if place == "among files" else f"\0{tmp_path}"
    kernel = shell.start()
    talk(kernel["connection_file"], LISTEN.format(name=name))
    copy = shell.ckpt("fork", kernel["kernel_id"])[0]
    visitor = shell.start()
    talk(visitor["connection_file"], KNOCK.format(name=name))
    assert talk(kernel["connection_file"], ACCEPT) == "knock"
    shell.ckpt("stop", kernel["kernel_id"])
    own = talk(copy["connection_file"], "print(ascii(listener.getsockname()))")
    talk(visitor["connection_file"], f"name = {own}\n" + KNOCK.format(name="@").replace(
        "'@'", "name"))
    assert talk(copy["connection_file"], ACCEPT) == "knock"
