"""What every registered class must have, so that one file and one line are enough for a new one."""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from typing import Any

import pytest

from evaluators.base import Evaluator
from evaluators.tasks.data import DataSet
from search.algorithms.base import Algorithm
from search.executors.base import Executor
from search.pipeline.inspection import REGISTRIES, registered
from search.stages.base import Stage
from search.tracking.base import Tracker
from spaces.base import SearchSpace
from spaces.registry import resolve
from spaces.sparsifiers.base import Sparsifier

BASES: dict[str, type] = {
    "space": SearchSpace,
    "sparsifier": Sparsifier,
    "evaluator": Evaluator,
    "data set": DataSet,
    "algorithm": Algorithm,
    "executor": Executor,
    "stage": Stage,
    "tracker": Tracker,
}
ENTRIES = [
    (registry.kind, name, path)
    for registry in REGISTRIES
    for name, path in getattr(import_module(registry.module), registry.registry).items()
]
each = pytest.mark.parametrize(("kind", "name", "path"), ENTRIES, ids=[f"{kind}-{name}" for kind, name, _ in ENTRIES])


def test_every_registry_has_members_of_a_known_kind() -> None:
    assert {kind for kind, _, _ in ENTRIES} == set(BASES)


@each
def test_it_is_a_documented_class_of_its_kind(kind: str, name: str, path: str) -> None:
    found = resolve(path)
    assert issubclass(found, BASES[kind])
    assert not inspect.isabstract(found), f"abstract methods: {sorted(found.__abstractmethods__)}"
    assert found.__doc__, "a docstring's first line is what `list` shows"
    assert registered()[kind][name].strip()
    assert name == name.lower()
    assert name.replace("_", "").isalnum()


@each
def test_its_settings_are_a_frozen_dataclass_that_refuses_unknown_keys(kind: str, name: str, path: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    settings: Any = resolve(path).Settings
    assert dataclasses.is_dataclass(settings)
    assert settings.__dataclass_params__.frozen
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(settings).validate_python({"no_such_option": 1})
    assert ("no_such_option",) in [error["loc"] for error in caught.value.errors()]


@each
def test_its_options_are_documented(kind: str, name: str, path: str) -> None:
    settings: Any = resolve(path).Settings
    documented = "\n".join(inspect.getdoc(base) or "" for base in settings.__mro__)
    missing = [field.name for field in dataclasses.fields(settings) if f"{field.name}: " not in documented]
    assert not missing, f"the Attributes of {settings.__name__} leave out {missing}"
