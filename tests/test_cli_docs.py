"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from jupyter_ckpt.cli.main import SECTIONS, cli
from jupyter_ckpt.errors import error_classes

DOCS = Path(__file__).parent.parent / "docs"
VERBS = [name for names in SECTIONS.values() for name in names]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_pages_are_up_to_date(generate: ModuleType) -> None:
    for name, page in generate.PAGES.items():
        assert (DOCS / "reference" / name).read_text() == page(), "run: python docs/generate.py"


def test_a_stale_page_fails_the_check(generate: ModuleType, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    assert generate.main(check=True) == 1
    assert generate.main() == 0
    assert generate.main(check=True) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_json_and_described_options(verb: str) -> None:
    context = click.Context(cli, info_name="jupyter ckpt")
    command = cli.get_command(context, verb)
    assert command is not None
    assert command.help
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert "--json" in [text for option in options for text in option.opts]
    assert all(option.help for option in options)


def test_verbs_are_the_documented_ones() -> None:
    assert sorted(VERBS) == sorted([
        "setup", "doctor", "ps", "save", "list", "show", "restore", "fork", "rename", "pin",
        "unpin", "rm", "gc", "verify", "quota", "encrypt", "start", "stop", "schedule"])


def test_every_error_has_its_own_id_and_meaning() -> None:
    for cls in error_classes().values():
        assert cls.__doc__, cls
        assert "message_id" in vars(cls), cls
