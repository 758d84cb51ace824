"""Read the ``task`` part of a configuration: a network on named data, or a class of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from search.config.block import Block
from search.config.document import Document, Fault, Path
from search.config.registries import DATASET
from search.config.schema import options_of, validate
from spaces.errors import SecateursError
from spaces.registry import resolve_named, suggestion

CLASSIFICATION = "evaluators.tasks.classification:Classification"
"""Task whose scores evaluators know by name."""

if TYPE_CHECKING:
    from evaluators.tasks.settings import OwnTaskSettings, TaskSettings


def read_task(document: Document) -> tuple[TaskSettings | OwnTaskSettings | None, list[Fault]]:
    """Return the validated task, and its faults; with a fault the first is None."""
    value, path = document.data["task"], ("task",)
    if not isinstance(value, Mapping):
        message = f"expected {{model: ..., data: ...}} or {{class: package.module.Class, arguments: ...}}, got {value!r}"
        return None, [document.fault(path, message)]
    known = ["class", "arguments", "length"] if "class" in value else ["model", "data", "score", "loss"]
    faults = [document.fault((*path, key), f"unknown key; {suggestion(key, known)}") for key in value if key not in known]
    task, found = (_own if "class" in value else _named)(document, value)
    return task, [*faults, *found]


def has_own_scores(task: Any) -> bool:
    """Return True for the task of a configuration whose scores are others than those of image classification."""
    if not isinstance(task, Mapping):
        return False
    if "class" in task or "score" in task or _is_imported(task.get("data")):
        return True
    name, _, _ = options_of(task.get("data"))
    if name is None:
        return False
    try:
        return bool(DATASET.find(name).task != CLASSIFICATION)
    except SecateursError:
        # The name is a fault of its own.
        return False


def _is_imported(data: Any) -> bool:
    """Return True for data that a function of the user's own returns."""
    return isinstance(data, Mapping) and "factory" in data


def _named(document: Document, value: Mapping[str, Any]) -> tuple[TaskSettings | None, list[Fault]]:
    from evaluators.meters import MeterSettings
    from evaluators.tasks.imported_data import ImportedDataSettings
    from evaluators.tasks.model_factory import ModelSettings
    from evaluators.tasks.settings import NamedData, TaskSettings

    path = ("task",)
    faults = [
        document.fault((*path, key), "is missing, and has no default") for key in ("model", "data") if value.get(key) is None
    ]
    model: Any = None
    data: Any = None
    if value.get("model") is not None:
        model, found = validate(ModelSettings, value["model"], document, (*path, "model"))
        faults.extend(found or _check_factory(document, model))
    imported = _is_imported(value.get("data"))
    if imported:
        data, found = validate(ImportedDataSettings, value["data"], document, (*path, "data"))
        below = (*path, "data")
        faults.extend(
            found or _check_callable(document, data.factory, (*below, "factory"), data.arguments, (*below, "arguments"))
        )
    elif value.get("data") is not None:
        data, found = validate(Annotated[Block, DATASET], value["data"], document, (*path, "data"))
        faults.extend(found)
        data = None if found else NamedData(data.name, data.settings)
    faults.extend(_check_loss(document, value.get("loss"), imported))
    score: Any = None
    if value.get("score") is not None:
        score, found = validate(MeterSettings, value["score"], document, (*path, "score"))
        faults.extend(
            found or _check_callable(document, score.name, (*path, "score", "name"), score.arguments, (*path, "score"))
        )
    if faults:
        return None, faults
    return TaskSettings(model, data, score, value.get("loss")), faults


def _check_loss(document: Document, loss: Any, imported: bool) -> list[Fault]:
    """Return the faults of ``task.loss``, the import path of a function, or ``model``."""
    path = ("task", "loss")
    if loss is None or (imported and loss == "model"):
        return []
    if not imported:
        message = "a registered data set has its own loss; expected none, or data by import path: data: {factory: ...}"
        return [document.fault(path, message)]
    if not isinstance(loss, str):
        return [document.fault(path, f"expected an import path such as torch.nn.functional.mse_loss, or model, got {loss!r}")]
    try:
        found = resolve_named(loss)
    except SecateursError as error:
        return [document.fault(path, str(error))]
    if isinstance(found, type):
        return _check_callable(document, loss, path, {}, path)
    if not callable(found):
        came = f"a {type(found).__name__}"
        return [document.fault(path, f"{loss}: expected a function of outputs and targets, or a class, got {came}")]
    return []


def _check_factory(document: Document, model: Any) -> list[Fault]:
    path = ("task", "model")
    faults = _check_callable(document, model.factory, (*path, "factory"), model.arguments, (*path, "arguments"))
    if model.checkpoint is not None and not FilePath(model.checkpoint).expanduser().is_file():
        looked = FilePath(model.checkpoint).expanduser().absolute()
        faults.append(document.fault((*path, "checkpoint"), f"there is no file {looked}"))
    return faults


def _check_callable(
    document: Document, name: str, path: Path, arguments: Mapping[str, Any], arguments_path: Path
) -> list[Fault]:
    try:
        found = resolve_named(name)
    except SecateursError as error:
        return [document.fault(path, str(error))]
    if not callable(found):
        return [document.fault(path, f"{name}: expected a class or a function, got a {type(found).__name__}")]
    try:
        signature = inspect.signature(found)
    except ValueError:
        return []
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        return [document.fault(arguments_path, f"{name} cannot be called with these: {error}; it takes: {known}")]
    return []


def _own(document: Document, value: Mapping[str, Any]) -> tuple[OwnTaskSettings | None, list[Fault]]:
    from evaluators.task import is_task_class
    from evaluators.tasks.settings import OwnTaskSettings

    path = ("task", "class")
    name, arguments = value["class"], value.get("arguments") or {}
    if not isinstance(name, str):
        return None, [document.fault(path, f"expected an import path such as package.module.Class, got {name!r}")]
    if not isinstance(arguments, Mapping):
        return None, [document.fault(("task", "arguments"), f"expected a mapping of keyword arguments, got {arguments!r}")]
    faults = _check_callable(document, name, path, arguments, ("task", "arguments"))
    length = value.get("length")
    if length is not None and (type(length) is not int or length < 1):
        faults.append(document.fault(("task", "length"), f"expected a number of tokens, at least 1, got {length!r}"))
    if not faults:
        found = resolve_named(name)
        if not is_task_class(found):
            faults = [document.fault(path, f"{name}: expected a subclass of evaluators.task.Task, got {found!r}")]
    return (None if faults else OwnTaskSettings(name, dict(arguments), length)), faults
