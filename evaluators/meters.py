"""Metrics that accumulate over the batches of a split: those that are no mean of a value per sample."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.metrics import Direction, Metric
from spaces.errors import SecateursError, error_line
from spaces.execution.batch import Nested, describe
from spaces.registry import resolve_named


class MeterError(SecateursError):
    """A metric can't be made, can't take the outputs of a network, or gives no number."""


class Meter(ABC):
    """A metric's state: every batch is added once, and states of different batches merge into that of all of them."""

    @abstractmethod
    def update(self, outputs: Any, targets: Nested) -> None:
        """Add a batch.

        Raises:
            MeterError: The metric can't take such outputs and targets.
        """

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add the batches that ``other`` has seen; ``other`` is of the same kind and arguments."""

    @abstractmethod
    def compute(self) -> float:
        """Return the metric over all batches.

        Raises:
            MeterError: It is no number.
        """


class Perplexity(Meter):
    """The exponential of the mean cross-entropy over tokens, of logits of shape ``(N, length, vocabulary)``."""

    def __init__(self) -> None:
        """Start without tokens."""
        self._loss = torch.zeros((), dtype=torch.float64)
        self._tokens = 0

    def update(self, outputs: Any, targets: Nested) -> None:
        """Add the tokens of a batch; ``targets`` are ids, int64 of shape ``(N, length)``, below 0 for none."""
        losses = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=-100)
        # Rows add up in double precision, so that the same tokens in other batches give the same number.
        self._loss = self._loss.to(losses.device) + losses.double().sum()
        self._tokens += int((targets != -100).sum())

    def merge(self, other: Self) -> None:
        """Add the tokens that ``other`` has seen."""
        self._loss = self._loss + other._loss.to(self._loss.device)
        self._tokens += other._tokens

    def compute(self) -> float:
        """Return the perplexity, at most e ** 80; infinity without tokens."""
        return math.exp(min(float(self._loss) / self._tokens, 80.0)) if self._tokens else math.inf


@dataclass(frozen=True)
class MeterSettings:
    """A metric of torchmetrics, or of a class of the same interface, by import path.

    Attributes:
        name: Import path of the class, such as ``torchmetrics.classification.MulticlassF1Score``.
        arguments: Its keyword arguments.
        direction: ``maximize`` or ``minimize``, the better way.
        key: Entry of a metric that gives several numbers, such as ``map`` of a mean average precision.
        unit: Unit in words.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    direction: Direction = "maximize"
    key: str | None = None
    unit: str = "fraction"

    def __post_init__(self) -> None:
        """Check the direction.

        Raises:
            ValueError: It is neither; the message begins with the option's name.
        """
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(f"direction: expected maximize or minimize, got {self.direction!r}")

    @property
    def label(self) -> str:
        """Name of the metric in tables: the class's name in small letters, such as ``multiclass_f1_score``, and the key."""
        letters = self.name.replace(":", ".").rpartition(".")[2]
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", letters).lower()
        return f"{words}_{self.key}" if self.key else words

    def metric(self) -> Metric:
        """Return the description of the metric; a number, not a share, whose standard error would be that of a mean."""
        return Metric(self.unit, self.direction, self.label.replace("_", " "), "number", is_cost=False)


def meter_settings(given: Mapping[str, Any]) -> MeterSettings:
    """Return the settings of a metric from a mapping of their names.

    Raises:
        MeterError: A name is unknown, ``name`` is missing, or a value is out of range.
    """
    try:
        return MeterSettings(**given)
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(MeterSettings))
        raise MeterError(
            f"score: expected a mapping with name and perhaps others of {known}; got {dict(given)}: {error}"
        ) from error


class ImportedMeter(Meter):
    """A metric of torchmetrics: ``update(outputs, targets)``, ``compute()``, and ``merge_state`` by its own reductions.

    Args:
        settings: Class, arguments and key.

    Raises:
        UnknownNameError: There is no such class.
        MeterError: It can't be made from its arguments, or has not the interface.
    """

    def __init__(self, settings: MeterSettings) -> None:
        """Make the metric."""
        self.settings = settings
        found = resolve_named(settings.name)
        try:
            self._metric: Any = _mergeable(found)(**settings.arguments)
        except Exception as error:
            raise MeterError(
                f"score {settings.name} called with {dict(settings.arguments)} failed: {error_line(error)}"
            ) from error
        lacking = [name for name in ("update", "compute", "merge_state") if not callable(getattr(self._metric, name, None))]
        if lacking:
            raise MeterError(f"score {settings.name}: expected a metric as torchmetrics has them, with {', '.join(lacking)}")

    def update(self, outputs: Any, targets: Nested) -> None:
        """Add a batch."""
        try:
            if isinstance(outputs, Tensor):
                self._metric.to(outputs.device)
            self._metric.update(outputs, targets)
        except Exception as error:
            raise MeterError(
                f"score {self.settings.name} can't take outputs of {describe(outputs)} and targets of {describe(targets)}: "
                f"{error_line(error)}"
            ) from error

    def merge(self, other: Self) -> None:
        """Add the batches that ``other`` has seen.

        Raises:
            MeterError: The metric's states don't merge.
        """
        try:
            self._metric.merge_state(other._metric)
        except Exception as error:
            raise MeterError(f"score {self.settings.name}: its states don't merge: {error_line(error)}") from error

    def compute(self) -> float:
        """Return the metric as a number."""
        try:
            found = self._metric.compute()
        except Exception as error:
            raise MeterError(
                f"score {self.settings.name} can't be computed of the samples it was given: {error_line(error)}; where a "
                "search measures shares of a split first (fidelities), take larger ones"
            ) from error
        if self.settings.key is not None:
            if not isinstance(found, Mapping) or self.settings.key not in found:
                names = ", ".join(map(str, found)) if isinstance(found, Mapping) else f"a {type(found).__name__}"
                raise MeterError(f"score {self.settings.name}: expected {self.settings.key!r} among its values, got {names}")
            found = found[self.settings.key]
        if isinstance(found, Mapping):
            raise MeterError(f"score {self.settings.name} gives {', '.join(map(str, found))}: expected key, one of them")
        if isinstance(found, Tensor) and found.numel() != 1:
            raise MeterError(
                f"score {self.settings.name} gives {found.numel()} values: expected one number, such as by average: macro"
            )
        return float(found)


@cache
def _mergeable(kind: Any) -> Any:
    """Return a class of metrics whose states merge; torchmetrics refuses it of some for a flag that is about updates alone."""
    if not isinstance(kind, type) or not kind.__dict__.get("full_state_update", False):
        return kind
    # By default a class made here would be sent to another process as a copy, whose metrics merge with none of this one's.
    return type(kind.__name__, (kind,), {"full_state_update": False, "__reduce__": lambda metric: _sent(kind, metric)})


def _sent(kind: Any, metric: Any) -> tuple[Any, ...]:
    """Return what pickle makes the metric of: an importable function, the class behind it, and its state."""
    return _unfilled, (kind,), metric.__getstate__()


def _unfilled(kind: Any) -> Any:
    """Return a metric without a state, of the class that this process has for ``kind``."""
    mergeable = _mergeable(kind)
    return mergeable.__new__(mergeable)
