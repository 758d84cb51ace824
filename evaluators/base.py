"""The evaluator: what a network is worth, or what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from evaluators.task import Task
from spaces.candidate import Candidate

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Metric:
    """What a metric is measured in, and which way is better."""

    unit: str
    direction: Direction


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluator may use.

    Attributes:
        task: Data, loss and score.
        generator: The trial's own randomness, seeded from (run seed, candidate fingerprint).
        device: Where the network runs.
        fidelity: Share of the full effort, in (0, 1]; 1 is the whole measurement.
        reference: The network that the search started from.
        costs: Costs of the candidate known analytically, before it was built.
        candidate: The candidate, None for a network that is none's.
        tables: What the search has computed beforehand, such as ``omega``.
        trained: Whether the network has other weights than the search started from.
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


class Evaluator(ABC):
    """Measures a network. Made from its frozen ``Settings``; keeps no state between calls.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        rank: Evaluators run in ascending order of this, cheapest first.
    """

    rank: int = 0

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that :meth:`evaluate` returns, by name, as far as they are known without a task."""

    def metrics_for(self, task: Task) -> Mapping[str, Metric]:
        """Return the metrics that :meth:`evaluate` returns for ``task``, by name."""
        return self.metrics

    @abstractmethod
    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Measure ``model`` and return every metric by name; ``model`` may be changed (its BN statistics, say)."""
