"""Parts of a training that a person has written: a loss, a schedule, by import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from evaluators.training.errors import TrainingError
from spaces.errors import SecateursError, error_line
from spaces.execution.batch import Nested
from spaces.registry import is_import_path, resolve_named


@dataclass(frozen=True)
class ImportedSettings:
    """A function or a class by import path.

    Attributes:
        name: Import path, such as ``torch.nn.CrossEntropyLoss``.
        arguments: Keyword arguments of the class, or of every call of the function.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Import the object.

        Raises:
            ValueError: There is none, or it can't be called; the message begins with the option's name.
        """
        require_callable(self.name)


def require_callable(path: str) -> Any:
    """Return the function or class at an import path.

    Raises:
        ValueError: There is none; the message begins with ``name``, the option that gives the path.
    """
    if not is_import_path(path):
        raise ValueError(f"name: expected an import path such as package.module.name, got {path!r}")
    try:
        found = resolve_named(path)
    except SecateursError as error:
        raise ValueError(f"name: {error}") from None
    if not callable(found):
        raise ValueError(f"name: expected a function or a class at {path!r}, got {found!r:.60}")
    return found


def made(settings: ImportedSettings, option: str) -> Callable[..., Any]:
    """Return the function of ``settings`` with its arguments, or an instance of the class.

    Args:
        settings: Import path and arguments.
        option: Key of the training, for messages.

    Raises:
        TrainingError: The class can't be made from its arguments, or its instances can't be called.
    """
    found = resolve_named(settings.name)
    if not isinstance(found, type):
        return partial(found, **settings.arguments)
    try:
        instance = found(**settings.arguments)
    except Exception as error:
        raise TrainingError(
            f"{option}: {settings.name} called with {dict(settings.arguments)} failed: {error_line(error)}; check its arguments"
        ) from error
    if not callable(instance):
        raise TrainingError(f"{option}: expected a function, or a class whose instances can be called, got {settings.name}")
    made_: Callable[..., Any] = instance
    return made_


class OwnLoss:
    """A person's loss: from outputs and targets of a batch to the mean loss, a scalar, or to the loss of every sample.

    Args:
        settings: Import path and arguments.
        device: Where the tensors of a loss that is a module go.

    Raises:
        TrainingError: The loss can't be made.
    """

    def __init__(self, settings: ImportedSettings, device: torch.device) -> None:
        """Make the loss."""
        self._name = settings.name
        self._function = made(settings, "loss")
        if isinstance(self._function, nn.Module):
            self._function = self._function.to(device)

    def __call__(self, outputs: Any, targets: Nested) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Raises:
            TrainingError: The loss fails, or is no tensor with a gradient.
        """
        try:
            found: object = self._function(outputs, targets)
        except SecateursError:
            raise
        except Exception as error:
            raise TrainingError(f"loss: {self._name} failed on a batch: {error_line(error)}; check loss.arguments") from error
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise TrainingError(f"loss: expected {self._name} to return a tensor of floating-point numbers, got {found!r:.60}")
        return found.mean()


class OwnSchedule:
    """A person's schedule: a function ``(step, total_steps) -> factor``, or a class of ``torch.optim.lr_scheduler``.

    The factor multiplies ``optimizer.lr``. A class is stepped once after every optimizer step, on an optimizer of its own
    with the rate 1, so that the factor of a step depends on nothing else and a resumed training has the same one; of what it
    sets, the learning rate alone is used.

    Args:
        settings: Import path and arguments.

    Raises:
        TrainingError: The schedule can't be made, or reads more than the number of steps.
    """

    def __init__(self, settings: ImportedSettings) -> None:
        """Make the schedule."""
        self._name = settings.name
        found = resolve_named(settings.name)
        self._scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self._factors: list[float] = []
        if isinstance(found, type) and issubclass(found, torch.optim.lr_scheduler.LRScheduler):
            self._scheduler = self._stepped(found, settings)
            self._factors = [self._rate()]
            return
        self._function = made(settings, "schedule")

    def _stepped(self, kind: Any, settings: ImportedSettings) -> torch.optim.lr_scheduler.LRScheduler:
        given = inspect.signature(kind.step).parameters.get("metrics")
        if given is not None and given.default is inspect.Parameter.empty:
            raise TrainingError(f"schedule: {self._name} follows a score; expected one that follows the number of steps")
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
        try:
            scheduler: torch.optim.lr_scheduler.LRScheduler = kind(self._optimizer, **settings.arguments)
        except Exception as error:
            raise TrainingError(
                f"schedule: {self._name} called with {dict(settings.arguments)} failed: {error_line(error)}; check "
                "schedule.arguments"
            ) from error
        return scheduler

    def _rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def factor(self, step: int, total_steps: int) -> float:
        """Return the learning rate of ``step``, from 0, as a multiple of the highest.

        Raises:
            TrainingError: It is no number of at least 0.
        """
        step = min(step, total_steps - 1)
        try:
            if self._scheduler is None:
                value: object = self._function(step, total_steps)
            else:
                while len(self._factors) <= step:
                    self._optimizer.step()
                    self._scheduler.step()
                    self._factors.append(self._rate())
                value = self._factors[step]
        except Exception as error:
            raise TrainingError(
                f"schedule: {self._name} failed at step {step} of {total_steps}: {error_line(error)}"
            ) from error
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise TrainingError(f"schedule: expected a number of at least 0 of {self._name} at step {step}, got {value!r:.60}")
        return float(value)
