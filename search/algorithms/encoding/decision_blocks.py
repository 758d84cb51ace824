"""Blocks of decisions with their part in a loss and in the costs, of which an exact program chooses one combination each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from numpy import float64
from numpy.typing import NDArray

from search.study.problem import Problem, Target
from spaces.candidate import Candidate, Value

Array = NDArray[float64]


@dataclass(frozen=True)
class DecisionBlock:
    """Decisions whose costs depend on each other, such as the bits of one layer's weights and input.

    Attributes:
        names: The decisions.
        combinations: Combinations of their values.
        losses: Part of each combination in the loss, shape ``(combinations,)``.
        costs: Costs of each combination above those of the start, by metric, each of shape ``(combinations,)``.
    """

    names: tuple[str, ...]
    combinations: tuple[tuple[Value, ...], ...]
    losses: Array
    costs: Mapping[str, Array]


@dataclass(frozen=True)
class PairCosts:
    """Costs of two blocks together above the sum of their own, such as those of a layer between two channel groups.

    Attributes:
        first: Place of the one block.
        second: Place of the other.
        costs: By metric, of shape ``(combinations of the first, combinations of the second)``.
    """

    first: int
    second: int
    costs: Mapping[str, Array]

    @property
    def size(self) -> int:
        """Number of pairs of combinations."""
        return next(iter(self.costs.values())).size


@dataclass(frozen=True)
class Programmed:
    """A loss and costs that are sums over blocks and pairs of blocks.

    Attributes:
        blocks: The blocks.
        pairs: Pairs of blocks whose costs depend on each other.
        start: Costs that those of blocks and pairs are above, by metric.
    """

    blocks: Sequence[DecisionBlock]
    pairs: Sequence[PairCosts]
    start: Mapping[str, float]

    def predicted(self, metric: str, chosen: Sequence[int]) -> float:
        """Return a cost by the sums, for the ``chosen`` combination of every block."""
        total = self.start[metric] + sum(block.costs[metric][at] for block, at in zip(self.blocks, chosen, strict=True))
        return float(total + sum(one.costs[metric][chosen[one.first], chosen[one.second]] for one in self.pairs))


class Programmable(ABC):
    """Decisions of one problem, with a loss that is a sum over them.

    Attributes:
        problem: The problem.
        targets: Targets on the analytic costs.
        caps: Limits that the space itself sets.
        metrics: Names of the analytic costs.

    Class attributes:
        loss_name: Name of the loss.
        choice: A choice of values in words, for error messages.
    """

    problem: Problem
    targets: Sequence[Target]
    caps: Sequence[Target] = ()
    metrics: Sequence[str]
    loss_name: ClassVar[str]
    choice: ClassVar[str]

    @abstractmethod
    def smallest(self) -> Candidate:
        """Return the cheapest candidate."""

    @abstractmethod
    def largest(self) -> Candidate:
        """Return the costliest candidate."""

    @abstractmethod
    def loss(self, candidate: Candidate) -> float:
        """Return the loss of a candidate, by the table."""

    def strides(self, metrics: Sequence[str]) -> Sequence[int]:
        """Return the distances between the values that programs choose from, one program after the other; the last is 1."""
        return (1,)

    @abstractmethod
    def program(
        self, metrics: Sequence[str], around: Candidate | None = None, stride: int = 1, near: bool = False
    ) -> Programmed:
        """Return the sums that the costs ``metrics`` are, over a choice of the values of every decision.

        Args:
            metrics: Costs that limits are put on.
            around: Candidate that the last program chose; what more than two blocks cost together is that around it.
            stride: Distance between the values that are chosen from.
            near: Choose only values near those of ``around``.
        """

    @abstractmethod
    def candidate(self, blocks: Sequence[DecisionBlock], chosen: Sequence[int]) -> Candidate:
        """Return the candidate of the ``chosen`` combination of every block."""
