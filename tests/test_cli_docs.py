"""The reference pages say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from jupyter_ckpt import errors
from jupyter_ckpt.agent import host, saved
from jupyter_ckpt.cli.commands import SECTIONS, cli
from jupyter_ckpt.cli.ps import STATES
from jupyter_ckpt.errors import error_classes
from jupyter_ckpt.protocol import checked_request_id

DOCS = Path(__file__).parent.parent / "docs"
PACKAGE = Path(__file__).parent.parent / "jupyter_ckpt"
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


def test_every_verb_says_what_it_answers_with_json(generate: ModuleType) -> None:
    assert set(generate._JSON) == set(VERBS)


def test_every_state_of_a_kernel_is_documented() -> None:
    page = (DOCS / "reference" / "cli.md").read_text()
    source = "".join(path.read_text() for path in (PACKAGE / "agent").glob("*.py"))
    said = set(re.findall(r'agent\.doing\("(\w+)"\)', source)) | {"running", "no agent"}
    assert said == set(STATES)
    for state in said:
        assert f"| `{state}` |" in page


def test_every_environment_variable_is_documented() -> None:
    root = PACKAGE.parent
    text = "".join(path.read_text() for path in [
        *PACKAGE.glob("**/*.py"), *root.glob("native/*.c"), root / "Makefile"])
    page = (DOCS / "reference" / "configuration.md").read_text()
    assert set(re.findall(r"JUPYTER_CKPT_[A-Z_]*[A-Z]", text)) == set(
        re.findall(r"JUPYTER_CKPT_[A-Z_]*[A-Z]", page))


def test_every_part_of_a_saved_file_is_documented(generate: ModuleType) -> None:
    for name in saved.FILES[0]:
        assert name.rstrip("?") in generate._FIELDS["files"]
    for name in host.describe("4.2"):
        assert name in generate._FIELDS["host"]


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    drawn: list[tuple[int, str]] = []
    codes: dict[str, list[str]] = {}
    line = r"^ {4}([ │├└─]*)([A-Z]\w+) *(\d*) *(\d*)"
    for match in re.finditer(line, errors.__doc__ or "", re.M):
        drawn.append((len(match[1]) // 4, match[2]))
        codes[match[2]] = [each for each in match.groups()[2:] if each]
    real: list[tuple[int, str]] = []

    def walk(cls: type[errors.CheckpointError], depth: int) -> None:
        real.append((depth, cls.__name__))
        for child in cls.__subclasses__():
            if child.__module__ == errors.__name__:
                walk(child, depth + 1)

    walk(errors.CheckpointError, 0)
    assert sorted(drawn) == sorted(real)
    for name, numbers in codes.items():
        cls = getattr(errors, name)
        if numbers:
            assert numbers == [str(cls.exit_code), str(cls.http_status)], name
        elif cls is not errors.CheckpointError:
            parent = cls.__mro__[1]
            assert (cls.exit_code, cls.http_status) == (
                parent.exit_code, parent.http_status), name


def test_every_error_has_its_own_id_and_meaning() -> None:
    for cls in error_classes().values():
        assert cls.__doc__, cls
        assert "message_id" in vars(cls), cls


@pytest.mark.parametrize(("text", "is_one"), [
    ("a" * 8, True), ("aB9_-" * 12, True), ("a" * 64, True),
    ("a" * 7, False), ("a" * 65, False), ("a.b.c.d.e", False), ("ä" * 8, False),
])
def test_request_ids_are_what_the_page_says(generate: ModuleType, text: str, is_one: bool) -> None:
    said = re.search(r"`request_id`, (\d+) to (\d+) characters of `(\S+)`", generate.rest_page())
    assert said is not None
    least, most, characters = said.groups()
    assert bool(re.fullmatch(f"{characters}{{{least},{most}}}", text)) is is_one
    if is_one:
        assert checked_request_id(text) == text
    else:
        with pytest.raises(errors.ProtocolError):
            checked_request_id(text)
