"""What README and docs say exists: commands, options, magic words, links, error ids."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from checkpointable import need_checkpoints

from jupyter_ckpt import native_build
from jupyter_ckpt.cli.commands import cli
from jupyter_ckpt.errors import CheckpointError
from jupyter_ckpt.inkernel import magic

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
TUTORIAL = ROOT / "docs" / "tutorials" / "first-checkpoint.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_COMMAND = re.compile(r"jupyter(?: |-)ckpt ([^`\n#|]*)")
_MAGIC = re.compile(r"(?:^|[\s`(=])%checkpoint\b([^`\n]*)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after ``jupyter ckpt`` wherever the text names a verb."""
    for match in _COMMAND.finditer(text):
        words = re.split(r"\s&&|[;>]|\)\s|\)$", match[1].strip())[0]
        first = words.split(" ")[0]
        if re.fullmatch(r"[a-z]+", first):
            yield shlex.split(words.replace("'", "").replace('"', " ").replace("…", ""))


def options_of(command: click.Command) -> set[str]:
    return {name for param in command.params for name in param.opts} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_on_a_page_exist(page: Path) -> None:
    context = click.Context(cli, info_name="jupyter ckpt")
    for verb, *rest in commands(page.read_text()):
        command = cli.get_command(context, verb)
        assert command is not None, f"jupyter ckpt {verb}"
        unknown = {word for word in rest if word.startswith("-")} - options_of(command)
        assert not unknown, f"jupyter ckpt {verb} {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_magic_words_on_a_page_exist(page: Path) -> None:
    for match in _MAGIC.finditer(page.read_text()):
        for word in re.findall(r"--\w+", match[1].split("#")[0]):
            assert word in magic.HELP, f"%checkpoint {word}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_a_page_resolve(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_contents() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*/*.md"):
        assert f"]({page.relative_to(ROOT / 'docs')})" in contents


def test_every_error_has_its_row_in_troubleshooting() -> None:
    text = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    pending = [CheckpointError]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if cls.__module__ in ("jupyter_ckpt.errors", native_build.__name__):
            assert f"`{cls.message_id}`" in text, cls


def test_every_dependency_is_explained() -> None:
    text = (ROOT / "docs" / "explanation" / "dependencies.md").read_text()
    required = [each for each in metadata.requires("jupyter-ckpt") or () if "extra ==" not in each]
    assert required
    for requirement in required:
        name = re.match(r"[\w-]+", requirement)
        assert name is not None
        assert f"| {name[0].replace('-', '_')} |" in text


def test_shell_blocks_of_the_tutorial_work(tmp_path: Path) -> None:
    need_checkpoints()
    blocks = [body for language, body in _FENCE.findall(TUTORIAL.read_text()) if language == "sh"]
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower())
               for name in ("DATA", "RUNTIME", "CONFIG")}
    bin_folder = str(Path(sys.executable).parent)
    env = {**os.environ, **folders, "IPYTHONDIR": str(tmp_path / "ipython"),
           "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    stop = 'trap \'[ -z "$KERNEL" ] || jupyter ckpt stop "$KERNEL" 2>/dev/null || true\' EXIT\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "KERNEL=\n" + stop + "\n".join(blocks)],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("25 still here") == 2
    left = [path.name for path in (tmp_path / "runtime" / "ckpt").iterdir()]
    assert left == [".epoch"], "nothing is left but the number of the last restore"
