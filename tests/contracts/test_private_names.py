"""No module of ours touches a name of Optuna or Ray that begins with an underscore."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

FOREIGN = ("optuna", "ray")
ON_OBJECTS = ("_study_id", "_trial_id", "_storage", "_backend", "_file_path")
IN_SUBCLASSES = (*ON_OBJECTS, "_lock", "_get_trials", "_create_new_trial")
PACKAGES = ("spaces", "evaluators", "search", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def private_names(text: str) -> Iterator[str]:
    """Yield the private names of Optuna and Ray that a module imports, reads or defines over one of theirs."""
    tree = ast.parse(text)
    foreign: set[str] = set(FOREIGN)
    bases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOREIGN:
            parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.module}: {part}" for part in parts if part.startswith("_"))
            bases.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in FOREIGN:
                    foreign.add(alias.asname or alias.name.partition(".")[0])
                    yield from (alias.name for part in alias.name.split(".") if part.startswith("_"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if (isinstance(root, ast.Name) and root.id in foreign) or foreign_study(node):
                yield ast.unparse(node)
        if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id in bases for base in node.bases):
            for inner in ast.walk(node):
                name = (
                    inner.name if isinstance(inner, ast.FunctionDef) else inner.attr if isinstance(inner, ast.Attribute) else ""
                )
                if name in IN_SUBCLASSES:
                    yield f"{node.name}.{name}"


def foreign_study(node: ast.Attribute) -> bool:
    """Return True for Optuna's private names on any object but ``self``, whatever the object is called."""
    own = isinstance(node.value, ast.Name) and node.value.id == "self"
    return node.attr in ON_OBJECTS and not own


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_it_touches_no_private_name_of_optuna_or_ray(path: Path) -> None:
    assert list(private_names(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "from optuna.storages._rdb import models",
        "from optuna.storages import _rdb",
        "import ray\nray._private.ray_constants.X = 1",
        "import ray._private.services as services",
        "claim(self._study._study_id)",
        "from optuna.storages import RDBStorage\nclass D(RDBStorage):\n def _create_new_trial(self): ...",
        "from optuna.storages.journal import JournalFileBackend\nclass J(JournalFileBackend):\n def f(self): return self._lock",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert list(private_names(text))
