"""`jupyter ckpt` never tells a secret: not in answers, logs, events, errors or manifests."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from session_kit import Shell, Talker, shell_in

SECRET = "s3cret-value-that-nobody-may-read"
PASSPHRASE = "a passphrase of some length"


class Session:
    """A kernel whose environment and memory hold a secret, in an encrypted store."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.said: dict[str, str] = {}
        shell.environment["MY_API_TOKEN"] = SECRET
        passphrase = shell.home / "passphrase"
        passphrase.write_text(PASSPHRASE)
        passphrase.chmod(0o600)
        self.tell("encrypt", "--passphrase-file", str(passphrase))
        self.kernel = json.loads(self.tell("start", "--json"))
        self.talker = Talker(self.kernel["connection_file"])
        self.talker.run(f"secret = {SECRET[::-1]!r}[::-1]")
        self.id = json.loads(self.tell("save", "--json", "--name", "the one"))["id"]

    def tell(self, *words: str) -> str:
        done = self.shell.run(sys.executable, "-m", "jupyter_ckpt.cli.main", *words)
        self.said[" ".join(words)] = done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    pytest.importorskip("cryptography")
    with shell_in("root" if os.geteuid() == 0 else "rootless") as shell:
        found = Session(shell)
        yield found
        found.talker.close()


def secrets_of(session: Session) -> list[str]:
    store = session.shell.store
    connection = json.loads(Path(session.kernel["connection_file"]).read_bytes())
    return [SECRET, PASSPHRASE, (store / "key").read_bytes().hex(), connection["key"]]


def test_no_verb_tells_a_secret(session: Session) -> None:
    kernel = session.kernel["kernel_id"]
    for words in (("ps",), ("list",), ("show", session.id), ("verify",), ("gc",), ("doctor",),
                  ("schedule", kernel, "--every", "1h"), ("schedule", kernel),
                  ("pin", session.id), ("rename", session.id, "other"), ("show", "nothing"),
                  ("fork", kernel), ("restore", "other", "--no-server"), ("rm", "nope"),
                  ("save", "--name", "other")):
        session.tell(*words)
        session.tell(words[0], "--json", *words[1:])
    hidden = secrets_of(session)
    assert len(session.said) >= 30
    for words, said in session.said.items():
        assert not [one for one in hidden if one in said], words


def test_no_log_record_or_manifest_holds_a_secret(session: Session) -> None:
    hidden = [one.encode() for one in secrets_of(session)]
    looked_at = 0
    for top in (session.shell.home / "runtime" / "ckpt", session.shell.store):
        for path in top.rglob("*"):
            if path.is_file() and path.name not in ("key",):
                looked_at += 1
                data = path.read_bytes()
                assert not [one for one in hidden if one in data], path
    assert looked_at > 10


def test_everything_is_for_its_owner_alone(session: Session) -> None:
    for top in (session.shell.home / "runtime" / "ckpt", session.shell.store):
        for path in (top, *top.rglob("*")):
            assert path.lstat().st_mode & 0o077 == 0 or path.is_symlink(), path
