"""``jupyter ckpt doctor``: what works here, and why not more."""

from __future__ import annotations

from typing import Any

from .call import Call, verb
from .output import Screen


@verb("doctor")
def doctor(call: Call) -> None:
    """Tell what works here, what does not, and what to do about it.

    Saves and restores a tiny process to be sure.
    """
    from ..doctor import doctor as examine

    found = examine(call.configuration.criu, call.locations.store_dir)
    if call.screen.as_json:
        call.screen.document(found)
    else:
        _print(call.screen, found)


def _print(screen: Screen, found: dict[str, Any]) -> None:
    criu, host, passed = found["criu"], found["host"], found["selftest"]
    verdict = f"yes, in {found['mode']} mode" if found["process"] else "no"
    if found["process"] and found["problems"]:
        verdict = f"no, because of what stands below; {found['mode']} mode works"
    screen.line(f"Saving whole sessions: {verdict}")
    screen.line(f"CRIU: {criu['version']} ({criu['path']})" if criu else "CRIU: none")
    if passed:
        screen.line(f"Self-test: saved in {passed['dump_s']:.2f} s, "
                    f"restored in {passed['restore_s']:.2f} s")
    screen.line(f"System: {host['system']} {host['kernel']} {host['machine']}, "
                f"Python {host['python']}")
    for name, entry in found["modes"].items():
        state = "available" if entry["available"] else f"no: {entry['why_not']}"
        screen.line(f"Mode {name}: {state}")
    for limit in found["limits"]:
        screen.line(f"Limit: {limit}")
    for problem in found["problems"]:
        screen.line("")
        screen.line(f"Problem: {problem['message']}")
        if problem["hint"]:
            screen.line(f"  {problem['hint']}")
