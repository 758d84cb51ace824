"""Docstrings name the thing or the deed; they do not begin with a clause that stands for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

FILES = [path for package in ("spaces", "evaluators", "search") for path in sorted((REPOSITORY / package).rglob("*.py"))]
CLAUSES = {"What", "Whether", "Where", "How", "Who", "Why", "When", "That"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_docstring_begins_with_a_clause(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    first = {node: (ast.get_docstring(node) or "-").split()[0] for node in places}
    assert not [getattr(node, "name", "the module") for node, word in first.items() if word in CLAUSES]
