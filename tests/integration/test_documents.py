"""The documents name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
ROOMS = ("spaces", "evaluators", "search", "tests", "configs", "docs", "benchmarks", "examples")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_that_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})/[\w/]+\.(?:py|yaml|md|json|svg|png)", text))
    folders = set(re.findall(rf"`((?:{'|'.join(ROOMS)})/(?:[\w]+/)*)`", text))
    missing = sorted(path for path in named | folders if not (REPOSITORY / path).exists())
    assert not missing, f"{document.name} names {missing}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_or_heading_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{document.name} links to {target}"


def test_every_folder_of_the_packages_is_on_the_map() -> None:
    text = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    for package in ("spaces", "evaluators", "search"):
        for folder in (path.parent for path in (REPOSITORY / package).glob("*/__init__.py")):
            name = folder.name
            assert f"`{package}/{name}/`" in text or re.search(rf"`{package}/.*`{name}/`", text), f"{package}/{name}"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
