"""What must hold after a session was lost and restored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .evidence import Evidence


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was seen."""

    name: str
    ok: bool
    seen: str


def checks(evidence: Evidence) -> list[Check]:
    """Return every check of the demo, in the order people ask for them."""
    e = evidence
    return [
        Check("everything was killed with -9", e.survivors == 0 and e.killed >= 7,
              f"{e.killed} processes, {e.survivors} survived"),
        Check("running cell finished by itself",
              e.result is not None and e.saved_step < e.killed_step < e.steps,
              f"saved at step {e.saved_step}, killed at {e.killed_step}, done at {e.steps}"),
        Check("with the result of an uninterrupted run",
              e.result is not None and e.result == e.expected_result,
              _short(str(e.result).strip("'"))),
        *(_answer(e, name, title) for name, title in _TITLES.items()),
        _processes(e),
        _thread(e),
        _counts(e),
        _document(e),
    ]


_TITLES = {
    "array": "array: not a bit changed",
    "generator": "generator goes on half-way",
    "closure": "closure keeps its state",
    "child": "child process answers by its pipes",
    "pool": "process pool computes",
    "file": "open file: content and position",
    "figure": "figure draws the same picture",
}


def _answer(e: Evidence, name: str, title: str) -> Check:
    got, expected = e.answers.get(name), e.expected_answers.get(name)
    if got is not None and got == expected:
        return Check(title, True, _short(got.strip("'")))
    return Check(title, False, f"{_short(str(got))} instead of {_short(str(expected))}")


def _processes(e: Evidence) -> Check:
    same = bool(e.identity_after) and e.identity_before == e.identity_after
    return Check("the same process and kernel ids", same and e.same_kernel_id,
                 f"pids {e.identity_after}, {'same' if e.same_kernel_id else 'another'} kernel id")


def _thread(e: Evidence) -> Check:
    if not e.heartbeat:
        return Check("thread counts on", False, "no answer")
    first, _, second, alive = e.heartbeat
    return Check("thread counts on", bool(alive) and second > first > e.beats_before,
                 f"{e.beats_before} before, now {first}, half a second later {second}")


def _counts(e: Evidence) -> Check:
    ok = bool(e.counts) and e.counts == list(range(1, len(e.counts) + 1))
    seen = f"In [{e.counts[0]}] to In [{e.counts[-1]}]" if ok else f"{e.counts}"
    return Check("execution counts continue", ok, f"{seen}{', without a gap' if ok else ''}")


def _document(e: Evidence) -> Check:
    name = "document: all outputs, none twice"
    if len(e.cells) != len(e.expected_cells):
        return Check(name, False, f"{len(e.cells)} cells instead of {len(e.expected_cells)}")
    wrong = [n for n, (got, expected) in enumerate(zip(e.cells, e.expected_cells), 1)
             if _plain(got) != _plain(expected)]
    if wrong:
        return Check(name, False, f"other outputs in code cell {', '.join(map(str, wrong))}")
    return Check(name, bool(e.cells), f"{len(e.cells)} cells, as if nothing had happened")


def _plain(outputs: list[dict[str, Any]]) -> list[Any]:
    """Return what a reader sees of some outputs: text and kinds of media."""
    found: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream":
            found.append((output["name"], "".join(output["text"])))
        else:
            data = output.get("data", {})
            text = "".join(data.get("text/plain", ""))
            found.append((output["output_type"], sorted(data), text))
    return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 72 else f"{text[:71]}…"
