"""The form in which a run stores what its network was built from, so that it loads from a closed list anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.task import Task
from search.trust.lists import LISTS
from search.trust.lists.base import Origin
from search.trust.task_classes import present_path
from spaces.errors import SecateursError
from spaces.registry import resolve

_UNSEEN = ("training", "name_or_path")


def canonical_origin(origin: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return what architecture.json says of the original network.

    A factory that is another path of a listed network (``torchvision.models.resnet18``, a re-export) is stored as that
    network's name, without weights, where this gives the same structure; others are stored as they were written.

    Args:
        origin: ``{"model": {"factory", "arguments" ...}}`` or ``{"class", "arguments"}``, as the configuration has it.
        task: The task, which builds the network.
    """
    if "model" not in origin:
        return {**origin, "class": present_path(str(origin["class"]))}
    model = origin["model"]
    found = _listed(str(model["factory"]), model.get("arguments") or {}, task)
    if found is None:
        return dict(origin)
    return {**origin, "model": {**model, "factory": found[0], "arguments": found[1]}}


def _listed(path: str, arguments: Mapping[str, Any], task: Task) -> Origin | None:
    """Return the listed form of a factory, if it builds the same network."""
    model: nn.Module | None = None
    factory = resolve(path)
    for entry in LISTS.values():
        known = resolve(entry)()
        if not known.knows(factory):
            continue
        model = model if model is not None else task.build()
        found: Origin | None = known.canonical(factory, arguments, model)
        if found is not None and (found == (path, dict(arguments)) or _same_structure(known, found, model)):
            return found
    return None


def _same_structure(known: Any, origin: Origin, model: nn.Module) -> bool:
    """Return True if a listed network, built on the meta device, has the modules, sizes and tensors of ``model``."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            made = known.find(*origin, Path())()
    except (SecateursError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    first, second = dict(model.named_modules()), dict(made.named_modules())
    if list(first) != list(second) or any(_sizes(first[name]) != _sizes(second[name]) for name in first):
        return False
    tensors = ({name: (tensor.shape, tensor.dtype) for name, tensor in one.state_dict().items()} for one in (model, made))
    return next(tensors) == next(tensors)


def _sizes(module: nn.Module) -> tuple[type, dict[str, Any]]:
    """Return a module's class and its attributes that are plain values, without those that are None."""
    plain = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in _UNSEEN}
    return type(module), {key: value for key, value in plain.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
