"""``jupyter ckpt setup``: what this system needs to save processes, once."""

from __future__ import annotations

import click

from .call import Call, verb


@verb("setup")
@click.option("--force", is_flag=True, help="Build and fetch anew what already works.")
def setup(call: Call, force: bool) -> None:
    """Get a CRIU that works here and build what goes with it.

    CRIU comes from Debian's packages into this Python environment if it is a
    venv or conda environment, else into Jupyter's data folder; the system is
    not changed. Run again whenever you like: what works is left alone.
    """
    from ..setup_criu import set_up

    done = set_up(call.configuration.criu, force=force,
                  say=lambda line: call.screen.say(f"{line} ...", "dim"))
    if call.screen.as_json:
        call.screen.document(done.to_dict())
        return
    how = "fetched" if done.fetched else "already here"
    call.screen.done(f"CRIU {done.criu.version}, {how}: {done.criu.path}")
    if done.selftest is not None:
        call.screen.done(f"A test process was saved and restored in {done.mode.name} mode "
                         f"({done.selftest.dump_s + done.selftest.restore_s:.2f} s).")
    call.screen.warn(done.warnings)
    if done.warnings:
        call.screen.next_step("what to do about it", "jupyter ckpt doctor")
