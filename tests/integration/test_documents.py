"""The documents name files that are there."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pytest
from pydantic import TypeAdapter

from search.config.document import parse_value
from search.options import own_options
from search.pipeline.inspection import REGISTRIES
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


@cache
def _writer() -> ModuleType:
    """Return docs/write_configuration.py as a module."""
    spec = spec_from_file_location("write_configuration", REPOSITORY / "docs" / "write_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_configuration_is_as_the_settings_are() -> None:
    written = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == _writer().page(), "write it anew: PYTHONPATH=. python docs/write_configuration.py"


MEMBERS = [(registry.kind, name) for registry in REGISTRIES for name in registry.members]


@pytest.mark.parametrize(("kind", "name"), MEMBERS, ids=[f"{kind}-{name}" for kind, name in MEMBERS])
def test_every_key_has_a_line_and_an_example_that_is_valid(kind: str, name: str) -> None:
    registry = next(registry for registry in REGISTRIES if registry.kind == kind)
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    pending = [registry.find(name).Settings]
    while pending:
        settings = pending.pop()
        hints = get_type_hints(settings, include_extras=True)
        for option, example in _writer().examples(settings).items():
            assert re.search(rf"^\| `{option}` \| .* \|$", text, flags=re.MULTILINE), option
            TypeAdapter(hints[option]).validate_python(parse_value(example))
        pending += [option.inner for option in own_options(settings) if option.inner is not None]


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
