"""The decision on what builds a run folder's original network; nothing is imported, fetched or run before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from search.trust.errors import FACTORY_REMEDY, UntrustedError
from search.trust.lists import LISTS
from search.trust.lists.base import Build, path_of
from search.trust.task_classes import MADE_FROM_OBJECTS, present_path, why_not
from spaces.errors import SecateursError
from spaces.files.json_file import mapping
from spaces.files.reading import FileError, shown
from spaces.registry import resolve

MAX_NAME = 500
"""Longest import path, in characters."""


@dataclass(frozen=True)
class Factory:
    """Function that builds the original network of a run folder.

    Attributes:
        name: Its import path.
        build: Returns a new network.
        listed: Whether it comes from a closed list, and not by a person's trust.
    """

    name: str
    build: Build
    listed: bool


def admit(origin: Any, folder: Path, trust: Sequence[str] | str = ()) -> Factory:
    """Return what builds the network that ``origin`` describes.

    Args:
        origin: ``{"model": {"factory", "arguments", "init_seed"}}`` or ``{"class", "arguments"}``, as architecture.json has it.
        folder: The folder of architecture.json.
        trust: Packages or modules whose code may run, as dotted paths.

    Raises:
        UntrustedError: The factory is on no closed list and not trusted.
        FileError: ``origin`` is not of that form, or asks a listed network for more than its list allows.
    """
    packages = trusted_packages(trust)
    origin = mapping(origin, "architecture.json: task")
    if "model" in origin:
        model = mapping(origin["model"], "architecture.json: task.model")
        name = _import_path(model.get("factory"), "task.model.factory")
        arguments = _arguments(model.get("arguments"), "task.model.arguments")
        seed = _seed(model.get("init_seed", 0))
        if covers(packages, name):
            return Factory(name, _seeded(partial(_call, name, packages, arguments, name), seed), False)
        for entry in LISTS.values():
            build = resolve(entry)().find(name, arguments, folder)
            if build is not None:
                return Factory(name, _seeded(build, seed), True)
        raise UntrustedError(name, "it is on no list of networks that may be built from a run folder")
    name = present_path(_import_path(origin.get("class"), "task.class"))
    arguments = _arguments(origin.get("arguments"), "task.arguments")
    if not covers(packages, name):
        raise UntrustedError(name, why_not(name), name not in MADE_FROM_OBJECTS)
    return Factory(name, partial(_call_task, name, packages, arguments), False)


def trusted_packages(trust: Sequence[str] | str) -> tuple[str, ...]:
    """Return ``trust`` as a tuple of dotted paths.

    Raises:
        SecateursError: One of them is no dotted path.
    """
    packages = (trust,) if isinstance(trust, str) else tuple(trust)
    for package in packages:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise SecateursError(f"trust: expected dotted paths such as package.module, got {shown(package)}")
    return packages


def covers(packages: Sequence[str], path: str) -> bool:
    """Return True if ``path`` is one of ``packages`` or lies in one, by whole components: ``pack`` is not ``package``."""
    dotted = path.replace(":", ".")
    return any(dotted == package or dotted.startswith(f"{package}.") for package in packages)


def _import_path(value: Any, key: str) -> str:
    parts = value.replace(":", ".", 1).split(".") if isinstance(value, str) and len(value) <= MAX_NAME else []
    if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("__") for part in parts):
        raise FileError(
            f"architecture.json: {key}: expected an import path such as package.module.name, "
            f"got {shown(value)}; {FACTORY_REMEDY}"
        )
    return str(value)


def _arguments(value: Any, key: str) -> dict[str, Any]:
    return mapping({} if value is None else value, f"architecture.json: {key}")


def _seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise FileError(f"architecture.json: task.model.init_seed: expected an integer of at least 0, got {shown(value)}")
    return value


def trusted_object(name: str, packages: Sequence[str]) -> Any:
    """Return what stands at a trusted import path, if it was defined inside what is trusted.

    A trusted module imports others (``os``): what it only has from them is not trusted with it.

    Raises:
        UntrustedError: It was defined elsewhere.
    """
    found = resolve(name)
    module, _, attribute = name.partition(":") if ":" in name else name.rpartition(".")
    defined = path_of(found) or path_of(type(found))
    if isinstance(found, ModuleType) or not covers(packages, defined):
        raise UntrustedError(defined or name, f"{module} only has {attribute} from elsewhere")
    return found


def _call(name: str, packages: Sequence[str], arguments: Mapping[str, Any], shown_name: str) -> nn.Module:
    factory = trusted_object(name, packages)
    try:
        model = factory(**arguments)
    except SecateursError:
        raise
    except Exception as error:
        raise FileError(f"{shown_name} called with {shown(dict(arguments))} failed: {type(error).__name__}: {error}") from error
    return _network(model, shown_name)


def _call_task(name: str, packages: Sequence[str], arguments: Mapping[str, Any]) -> nn.Module:
    from evaluators.task import Task, is_task_class

    made = trusted_object(name, packages)
    if not is_task_class(made):
        raise FileError(f"{name}: expected a subclass of evaluators.task.Task, got {shown(made)}")
    try:
        task: Task = made(**arguments)
        model: Any = task.build()
    except SecateursError:
        raise
    except Exception as error:
        raise FileError(f"the task {name} can't be made here: {type(error).__name__}: {error}; {FACTORY_REMEDY}") from error
    return _network(model, name)


def _network(model: Any, name: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise FileError(f"{name}: expected it to return a torch.nn.Module, got a {type(model).__name__}")
    return model


def _seeded(build: Build, seed: int) -> Build:
    """Return ``build`` with torch's generator seeded for it alone."""

    def seeded() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return build()

    return seeded
