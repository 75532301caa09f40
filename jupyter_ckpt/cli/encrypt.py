"""``jupyter ckpt encrypt``: a store whose contents nobody reads without its key."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from ..errors import UsageError
from .call import Call, verb

_KEY_NAME = "ckpt-encryption.key"


@verb("encrypt")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="The key: any private file of 32 bytes or more; made when it is missing "
                   f"(default: {_KEY_NAME} in Jupyter's configuration folder).")
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              metavar="FILE", help="A private file that holds a passphrase, instead of a key.")
def encrypt(call: Call, key_file: Path | None, passphrase_file: Path | None) -> None:
    """Encrypt the checkpoint store, before its first checkpoint.

    Memory, files and notebooks are encrypted; names, notes, times and sizes
    stay readable. Without the key file everything in the store is lost: keep
    a copy of it elsewhere.
    """
    if key_file is not None and passphrase_file is not None:
        raise UsageError("--key-file and --passphrase-file exclude each other.")
    if passphrase_file is not None:
        chosen, kind = passphrase_file.expanduser().absolute(), "passphrase"
        call.new_store().encrypt(chosen, kind)
    else:
        chosen = (key_file or _default_key_file()).expanduser().absolute()
        kind = "key-file"
        store = call.new_store()
        if store.encrypted:
            raise UsageError(f"The store {store.root} is encrypted already.")
        made = _make_key(chosen)
        try:
            store.encrypt(chosen, kind)
        except BaseException:
            if made:
                chosen.unlink()
            raise
    if call.screen.as_json:
        call.screen.document({"store": str(call.locations.store_dir), "key_file": str(chosen)})
        return
    call.screen.done(f"What is saved in {call.locations.store_dir} from now on is encrypted.")
    call.screen.next_step("Keep a copy of the key elsewhere, it cannot be replaced", str(chosen))


def _default_key_file() -> Path:
    from jupyter_core.paths import jupyter_config_dir

    return Path(jupyter_config_dir()) / _KEY_NAME


def _make_key(path: Path) -> bool:
    """Make a key file where there is none; tell whether it was made."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise UsageError(f"The key file {path} cannot be made: {error.strerror}.",
                         "Choose another place with --key-file.") from error
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(handle)
    return True
