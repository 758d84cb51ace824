"""Every block of code in the documents is run by a test or says why not, and every command in them has options that exist."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import typer.main

from search.cli import app
from search.config.loading import load
from tests.integration.test_documents import DOCUMENTS
from tests.paths import REPOSITORY

MARK = re.compile(r"<!-- (?:run by (?P<test>[\w./]+)(?:, [^>]*)?|not run: (?P<reason>[^>]+)) -->$")
COMMAND = re.compile(r"(?:python -m search|secateurs) ((?:run|check|inspect|report|dashboard|fuse|list)\b[^`\n|#]*)")


@dataclass(frozen=True)
class CodeBlock:
    """A block of code, fenced or indented.

    Attributes:
        document: The file.
        line: Number of its first line, from 1.
        above: The last line above it that is not empty.
        text: Its content.
    """

    document: Path
    line: int
    above: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path) -> Iterator[CodeBlock]:
    """Yield the blocks of code of a document, in order."""
    lines = document.read_text(encoding="utf-8").split("\n")
    above, index = "", 0
    while index < len(lines):
        line, start = lines[index], index
        if line.startswith("```"):
            index = next(end for end in range(start + 1, len(lines)) if lines[end].startswith("```")) + 1
            yield CodeBlock(document, start + 1, above, "\n".join(lines[start + 1 : index - 1]))
        elif line.startswith("    ") and (not lines[start - 1].strip() or lines[start - 1].startswith(("#", "<!--"))):
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index].strip()):
                index += 1
            yield CodeBlock(document, start + 1, above, "\n".join(lines[start:index]).rstrip())
        else:
            above = line if line.strip() else above
            index += 1


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_it_is_run_by_a_test_or_says_why_not(block: CodeBlock) -> None:
    if block.text.startswith("# mine/"):
        return  # tests/integration/test_extending.py installs and runs all of these
    found = MARK.search(block.above)
    assert found, f"{block}: the line above needs `<!-- run by tests/FILE.py -->` or `<!-- not run: REASON -->`"
    if found["test"]:
        assert (REPOSITORY / found["test"]).is_file()


def test_blocks_that_no_test_runs_are_few_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {str(block): found["reason"] for block in BLOCKS if (found := MARK.search(block.above)) and found["reason"]}
    with capsys.disabled():
        print("\nnot run by any test:", *(f"  {block}: {reason}" for block, reason in reasons.items()), sep="\n")
    assert len(BLOCKS) > 30
    assert len(reasons) < len(BLOCKS) / 4


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_options_of_its_commands_exist(document: Path) -> None:
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group | typer.main.TyperGroup)
    text = re.sub(r" \\\n\s*", " ", document.read_text(encoding="utf-8"))
    for written in COMMAND.findall(text):
        name, *arguments = shlex.split(re.split(r" {2,}|[,;:)] |[;:.,)]$", written.strip())[0].replace("[NAME]", "NAME"))
        if not arguments and name != "list":
            continue  # the name of a command, not a call of it
        command.commands[name].make_context(name, arguments)


TASKS = [block for block in BLOCKS if block.text.strip().startswith("task:")]


@pytest.mark.parametrize("block", TASKS, ids=str)
def test_a_task_in_a_document_is_valid(block: CodeBlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    monkeypatch.syspath_prepend(tmp_path)
    for module in (other.text for other in BLOCKS if other.document == block.document):
        if named := re.match(r"# (\w+\.py)\b", module):
            (tmp_path / named[1]).write_text(module)
    config = tmp_path / "shown.yaml"
    config.write_text(f"name: shown\n{textwrap.dedent(block.text)}\nstages: [train: {{epochs: 1}}]\n")
    assert load(config).task is not None


EXECUTIONS = [block for block in BLOCKS if block.text.strip().startswith("execution:")]


@pytest.mark.parametrize("block", EXECUTIONS, ids=str)
def test_an_execution_in_a_document_is_valid(block: CodeBlock, tmp_path: Path) -> None:
    config = tmp_path / "shown.yaml"
    task = "task: {model: {factory: spaces.networks.digits_cnn}, data: digits}"
    config.write_text(f"name: shown\n{task}\n{textwrap.dedent(block.text)}\nstages: [train: {{epochs: 1}}]\n")
    assert load(config).execution is not None


def test_a_marker_is_read_and_its_absence_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Words: <!-- not run: no reason -->\n\n    a call\n\nMore words:\n```\nanother\n```\n")
    marked, bare = blocks_of(page)
    assert (marked.text, bare.text) == ("    a call", "another")
    test_it_is_run_by_a_test_or_says_why_not(marked)
    with pytest.raises(AssertionError, match="the line above needs"):
        test_it_is_run_by_a_test_or_says_why_not(bare)
