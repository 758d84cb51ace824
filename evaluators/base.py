"""Interface of an evaluator, which measures the worth or the cost of a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from evaluators.metrics import Direction as Direction
from evaluators.metrics import Metric as Metric
from evaluators.task import MeasurementError, Task
from evaluators.training.moments import TrainingMoments
from spaces.base import SearchSpace
from spaces.candidate import Candidate


@dataclass(frozen=True)
class Draw:
    """Samples of a measurement by which an algorithm compares candidates: the same for all that are compared.

    Attributes:
        samples: Number of samples, fewer where there are no more.
        seed: Seed by which they are drawn.
        held_out: Draw them from samples that no other draw sees, where an evaluator keeps such.
        rough: A first comparison of many, in which an evaluator may save what matters to values more than to their order.
    """

    samples: int
    seed: int
    held_out: bool = False
    rough: bool = False


@dataclass(frozen=True)
class EvaluationContext:
    """Inputs of a measurement besides the network.

    Attributes:
        task: Data, loss and score.
        generator: The trial's own randomness, seeded from (run seed, candidate fingerprint).
        device: Device that the network runs on.
        fidelity: Share of the full effort, in (0, 1]; 1 is the whole measurement.
        reference: The network that the search started from.
        costs: Costs of the candidate by metric, predicted by the space before the network was built.
        candidate: The candidate the network was built from; None for one that no candidate describes, such as the reference.
        tables: Tables that the search computed before its first trial, by name, such as ``omega``.
        trained: Whether the network was trained since the search started, so that tables of its weights are out of date.
        moments: Second moments of the last training of the network, or of the one that it started from; None without one.
        draw: Samples to measure on; None for the evaluator's own.
    """

    task: Task
    generator: torch.Generator
    device: torch.device
    fidelity: float
    reference: nn.Module
    costs: Mapping[str, float]
    candidate: Candidate | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False
    moments: TrainingMoments | None = None
    draw: Draw | None = None


class Evaluator(ABC):
    """A measurement of networks, made from its frozen ``Settings``; keeps no state between calls.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        rank: Place in the order of evaluators, ascending: the cheapest measurement first.
        repeatable: Whether measuring a network twice gives equal values; false for timings.
        needs_quantizers: Whether only quantized networks have the metrics.
    """

    Settings: ClassVar[type[Any]]
    rank: int = 0
    repeatable: ClassVar[bool] = True
    needs_quantizers: ClassVar[bool] = False

    def __init__(self, settings: Any) -> None:
        """Keep ``settings``, an instance of ``Settings``."""
        self.settings = settings

    @classmethod
    def asked_for(cls, settings: Any, metrics: Collection[str]) -> Any:
        """Return the settings with which what a search seeks or limits is measured, too, where an option says so.

        Args:
            settings: The settings as given.
            metrics: Names of the search's objectives and targets.
        """
        return settings

    @property
    def undisturbed(self) -> bool:
        """True if :meth:`evaluate` needs this machine to itself, such as for timing."""
        return False

    def check(self, space: SearchSpace[Any]) -> None:
        """Check that this machine and ``space`` have all that the evaluator needs; called before anything runs.

        Raises:
            SecateursError: Something is missing; the message says what to install or to set.
        """

    def check_network(self, model: nn.Module, task: Task) -> None:
        """Check that ``model`` has what the evaluator measures; called before anything runs.

        Raises:
            SecateursError: It has not; the message says what to set.
        """

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Metrics of :meth:`evaluate` by name, as far as they are known without a task."""

    def metrics_for(self, task: Task) -> Mapping[str, Metric]:
        """Return the metrics of :meth:`evaluate` for networks of ``task``, by name."""
        return self.metrics

    @abstractmethod
    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Measure ``model`` and return every metric by name; may change ``model``, such as its BatchNorm statistics."""


def require_metrics(evaluator: Evaluator, found: Any, promised: Iterable[str]) -> dict[str, float]:
    """Return the metrics that an evaluator measured, as plain numbers.

    Args:
        evaluator: The evaluator.
        found: What its ``evaluate`` returned.
        promised: Names of the metrics that it says it measures.

    Raises:
        MeasurementError: A metric is missing or is no finite number, or ``found`` is no mapping at all.
    """
    name = type(evaluator).__name__
    if not isinstance(found, Mapping):
        raise MeasurementError(f"{name}.evaluate: expected a number for each of {list(promised)}, got {found!r}")
    numbers: dict[str, float] = {}
    for metric, value in found.items():
        try:
            numbers[metric] = value if type(value) in (int, float) else float(value)
        except (TypeError, ValueError):
            raise MeasurementError(f"{name}: expected a number for {metric}, got {value!r}") from None
        if not math.isfinite(numbers[metric]):
            raise MeasurementError(f"{metric} is {value}; expected a finite number")
    missing = [metric for metric in promised if metric not in numbers]
    if missing:
        raise MeasurementError(f"{name}.evaluate: expected {missing[0]} among what is measured, got {sorted(numbers)}")
    return numbers
