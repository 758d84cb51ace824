"""Settings of a task, and the task built from them: a network on named data or on data of a function, or a user's own class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from evaluators import DATASETS
from evaluators.meters import MeterSettings
from evaluators.task import Task, is_task_class
from evaluators.tasks.data import DataSet, DataSettings
from evaluators.tasks.imported_data import ImportedDataSettings, ImportedDataTask
from evaluators.tasks.model_factory import ModelSettings
from spaces.errors import SecateursError
from spaces.registry import is_import_path, lookup, resolve, resolve_named


class TaskClassError(SecateursError):
    """A user's task class cannot be used."""


@dataclass(frozen=True)
class NamedData:
    """A registered data set and its options.

    Attributes:
        name: Name in ``evaluators.DATASETS``, or the import path of a class of the user's own.
        settings: An instance of that class's ``Settings``.
    """

    name: str
    settings: DataSettings


@dataclass(frozen=True)
class TaskSettings:
    """A network on data, and perhaps a metric: ``task: {model: {...}, data: {name: ...}, score: {name: ...}}``.

    Attributes:
        model: Factory, arguments and checkpoint of the network.
        data: A registered data set, or a function of the user's own that returns data sets.
        score: A metric that accumulates, the primary score; None for the task's own.
        loss: Import path of the loss on data of such a function, or ``model``; None for cross-entropy.
    """

    model: ModelSettings
    data: NamedData | ImportedDataSettings
    score: MeterSettings | None = None
    loss: str | None = None


@dataclass(frozen=True)
class OwnTaskSettings:
    """A task class of the user's own: ``task: {class: package.module.Class, arguments: {...}}``.

    Attributes:
        path: Import path of the class (the configuration's key is ``class``).
        arguments: Its keyword arguments.
        length: Tokens that costs are counted at, for a network over tokens; None for those of its example.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    path: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None


def build_task(settings: TaskSettings | OwnTaskSettings | Task) -> Task:
    """Return the task described by ``settings``, or ``settings`` where that is a task; registered data are not read yet.

    Raises:
        UnknownNameError: The data set or the class is not known.
        TaskClassError: The class is no :class:`~evaluators.task.Task`, or cannot be made from its arguments.
    """
    if isinstance(settings, Task):
        return settings
    if isinstance(settings, TaskSettings):
        if isinstance(settings.data, ImportedDataSettings):
            return ImportedDataTask(settings.model, settings.data, settings.score, settings.loss)
        data: DataSet = _data_class(settings.data.name)(settings.data.settings)
        named: Task = resolve(data.task)(settings.model, data, settings.score)
        return named
    found = resolve_named(settings.path)
    if not is_task_class(found):
        raise TaskClassError(f"task.class {settings.path}: expected a subclass of evaluators.task.Task, got {found!r}")
    try:
        task: Task = found(**settings.arguments)
        task.cost_length = settings.length if settings.length is not None else task.cost_length
    except SecateursError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskClassError(
            f"task.class {settings.path} called with {dict(settings.arguments)} failed: {type(error).__name__}: {error}"
            "; check task.arguments, and that every abstract method is there"
        ) from error
    return task


def _data_class(name: str) -> Any:
    """Return the class of data sets registered as ``name``, or the one at the import path ``name``."""
    return resolve_named(name) if is_import_path(name) else lookup(DATASETS, name, "data set")
