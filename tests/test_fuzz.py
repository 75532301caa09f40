"""A short, repeatable part of `make fuzz`: whatever is read, only named errors come out."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.manifest import Manifest
from jupyter_ckpt.record import Record
from jupyter_ckpt.shapes import misfit
from jupyter_ckpt.store import signing, tree
from jupyter_ckpt.store.chunks import digest_of

FUZZ = Path(__file__).parent / "fuzz"
SEED = 20_261_123
IN_PROCESS = {"manifest-unsigned": 400, "manifest-signed": 400, "content-tree": 400, "chunk": 300,
              "content": 100, "manifest-folder": 60, "cli-show": 40, "quota": 60,
              "criu-images": 500,
              "criu-log": 200, "record": 200, "job-answer": 200, "schedule": 300, "words": 300,
              "cli": 40, "shm-json": 200, "restore-files": 300, "agent-http": 300,
              "agent-routes": 300, "agent-socket": 60, "kernel-socket": 60, "kernel-answer": 60}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12)
repeatable = settings(derandomize=True, deadline=None, max_examples=200, database=None)


def test_inputs_of_every_target_lead_to_named_errors_only(tmp_path: Path) -> None:
    """Each in a process of its own, as `make fuzz` runs them: memory limits are a process's."""
    for name, inputs in IN_PROCESS.items():
        report = tmp_path / f"{name}.json"
        done = subprocess.run(
            [sys.executable, str(FUZZ / "worker.py"), name, "--plain", "--inputs", str(inputs),
             "--seed", str(SEED), "--report", str(report), "--findings", str(tmp_path)],
            capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text())
        assert (found["findings"], found["inputs"]) == ([], inputs)


def test_every_target_has_a_part_in_this_test() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from target import all_targets; print(*all_targets())"],
        cwd=FUZZ, env={"PYTHONPATH": f"{FUZZ}:{FUZZ.parent.parent}", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {*IN_PROCESS, "rest"}  # that one needs a server


@repeatable
@given(JSON)
def test_json_of_any_shape_is_no_manifest_record_or_tree(data: object) -> None:
    for read in (Manifest.from_dict, Record.from_dict,
                 lambda found: tree.decode(json.dumps(found).encode())):
        with suppress(CheckpointError):
            read(data)
            assert data == []


@repeatable
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_no_manifest(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        signing.opened(data, b"k" * 32, "0123456789abcdef")


@repeatable
@given(st.lists(st.tuples(st.none() | st.binary(max_size=8), st.integers(1, 1 << 20)), max_size=9))
def test_tree_survives_its_stored_form(chunks: list[tuple[bytes | None, int]]) -> None:
    named = [(None if raw is None else digest_of(raw), length) for raw, length in chunks]
    entry = tree.Entry("images/x.img", 0o600, sum(n for _, n in named), named)
    assert tree.decode(tree.encode([entry])) == [entry]


@pytest.mark.parametrize(("value", "shape", "place"), [
    (True, int, "it"), (1, bool, "it"), (1 << 70, int, "it"), (float("nan"), float, "it"),
    (10 ** 400, float, "it"), ("a\0", Path, "it"), ("\ud800", Path, "it"), ("\udcff", Path, None),
    ({"a": 1}, {"a": int, "b?": str}, None), ({"b": 1}, {"a?": int, "b?": str}, "b"),
    ({}, {"a": int}, "a"), ([{"a": 1}, {"a": "x"}], [{"a": int}], "[1].a"),
    (None, (str, None), None),
    ({"x": [1, {}]}, {"x": [int]}, "x[1]"), ("x", [str], "it"), (2.5, float, None)])
def test_misfit_names_the_place(value: object, shape: object, place: str | None) -> None:
    assert misfit(value, shape) == place
