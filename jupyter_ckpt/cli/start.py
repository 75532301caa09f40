"""``jupyter ckpt start``: a kernel that can be saved, without a server."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import click

from ..errors import LaunchFailed, NotFound, UsageError
from ..kernel_ports import kernel_ports
from .call import Call, verb
from .interrupts import still_goes_on
from .places import present_folder
from .units import talk_to

if TYPE_CHECKING:
    from ..record import Record

_DEFAULT_KERNEL = "python3"
_IP = "127.0.0.1"


@verb("start")
@click.option("--kernel", "kernel_name", metavar="NAME",
              help="The kernelspec, as 'jupyter kernelspec list' shows it (default: the "
                   f"notebook's, else {_DEFAULT_KERNEL}).")
@click.option("--notebook", type=click.Path(path_type=Path), metavar="PATH",
              help="The notebook the kernel is for; it is saved with every checkpoint.")
def start(call: Call, kernel_name: str | None, notebook: Path | None) -> None:
    """Start a kernel that can be saved, without a Jupyter server.

    It works in the present folder and runs until `jupyter ckpt stop`. Prints
    the kernel id and the connection file.
    """
    folder = present_folder()
    if folder is None:
        raise UsageError("The present folder is gone, and a kernel would work in it.",
                         "Go to a folder that exists ('cd'), and start it there.")
    if notebook is not None and not notebook.is_file():
        raise UsageError(f"There is no notebook {str(notebook)!r}.",
                         "Give the path of an existing .ipynb file.")
    if kernel_name is not None and not kernel_name.strip():
        raise UsageError("The name given with --kernel is empty.", "Name one, or leave it out.")
    name = kernel_name or _named_in(notebook) or _DEFAULT_KERNEL
    with call.screen.progress("Starting the kernel"):
        record = _launch(call, name, notebook, folder)
    call.screen.did = f"Kernel {record.kernel_id} was started"
    if call.screen.as_json:
        call.screen.document({"kernel_id": record.kernel_id,
                              "connection_file": record.connection_file})
        return
    call.screen.line(f"{record.kernel_id}  {record.connection_file}")
    call.screen.done(f"Kernel {name} runs in {folder}.")
    call.screen.next_step("Talk to it", talk_to(record.connection_file))
    call.screen.next_step("Save it", f"jupyter ckpt save {record.kernel_id[:8]}")


def _named_in(notebook: Path | None) -> str | None:
    """Return the kernel a notebook asks for; raise `UsageError` if it is none."""
    if notebook is None:
        return None
    try:
        metadata = json.loads(notebook.read_bytes()).get("metadata", {})
        name = metadata.get("kernelspec", {}).get("name")
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{str(notebook)!r} cannot be read as a notebook: {error}.",
                         "Name the kernel with --kernel, or repair the file.") from error
    return str(name) if name else None


def _launch(call: Call, name: str, notebook: Path | None, work: str) -> Record:
    """Start kernelspec `name` in the folder `work`.

    Its connection file is removed unless it starts. Raises `NotFound` for an unknown
    kernelspec, and `LaunchFailed`.
    """
    from jupyter_client.connect import write_connection_file

    manager = _manager(name)
    kernel_id, request_id = str(uuid.uuid4()), uuid.uuid4().hex
    folder = call.locations.connection_dir
    path = str(folder / f"kernel-{kernel_id}.json")
    ports: dict[str, Any] = {**kernel_ports(_IP)}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_connection_file(path, ip=_IP, transport="tcp", kernel_name=name,
                              key=str(uuid.uuid4()).encode(), **ports)
        manager.connection_file = path
        document = None if notebook is None else str(notebook.absolute())
        spec = manager.kernel_spec
        return call.kernels.launch(
            call.locations, kernel_id=kernel_id, kernel_name=name,
            cmd=manager.format_kernel_cmd(), env=_environment(spec, document), cwd=work,
            connection_file=path, language=str(spec.language or ""), notebook=document,
            request_id=request_id)
    except OSError as error:
        with suppress(OSError):  # the folder itself may be what is amiss
            os.unlink(path)
        raise LaunchFailed(f"Kernel {name!r} could not be started: {error}.",
                           f"Check that {folder} can be written.") from error
    except KeyboardInterrupt:
        if not still_goes_on(call, kernel_id, "launches", request_id):
            Path(path).unlink(missing_ok=True)
        raise
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def _manager(name: str) -> Any:
    """Return a kernel manager for kernelspec `name`; it starts nothing itself."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name=name)
    try:
        spec = manager.kernel_spec
    except NoSuchKernel as error:
        known = ", ".join(sorted(KernelSpecManager().find_kernel_specs())) or "none"
        raise NotFound(f"There is no kernel named {name!r}.",
                       f"Installed here: {known}.") from error
    if spec is None or not spec.argv:
        raise LaunchFailed(f"The kernelspec {name!r} names no command.",
                           "Look at its kernel.json with 'jupyter kernelspec list'.")
    return manager


def _environment(spec: Any, notebook: str | None) -> dict[str, str]:
    """Return the kernel's environment: ours and the kernelspec's, as Jupyter merges them."""
    env = dict(os.environ)
    env.update({name: Template(value).safe_substitute(env) for name, value in spec.env.items()})
    env.pop("JPY_PARENT_PID", None)
    if (spec.language or "").lower().startswith("python"):
        env.pop("PYTHONEXECUTABLE", None)
    if notebook is not None:
        env["JPY_SESSION_NAME"] = notebook
    return env
