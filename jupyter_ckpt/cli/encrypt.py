"""``jupyter ckpt encrypt``: a store whose contents nobody reads without its key."""

from __future__ import annotations

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
    chosen = (passphrase_file or key_file or _default_key_file()).expanduser().absolute()
    kind = "key-file" if passphrase_file is None else "passphrase"
    call.new_store().encrypt(chosen, kind, make_key=passphrase_file is None)
    if call.screen.as_json:
        call.screen.document({"store": str(call.locations.store_dir), "key_file": str(chosen)})
        return
    call.screen.done(f"What is saved in {call.locations.store_dir} from now on is encrypted.")
    call.screen.next_step("Keep a copy of the key elsewhere, it cannot be replaced", str(chosen))


def _default_key_file() -> Path:
    from jupyter_core.paths import jupyter_config_dir

    return Path(jupyter_config_dir()) / _KEY_NAME

