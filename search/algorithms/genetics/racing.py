"""Racing: who is measured in full, judged from a cheap measurement on a subset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search.algorithms.genetics.individual import Individual
from search.algorithms.genetics.subset_error import SubsetError
from search.study.pareto import gains
from search.study.problem import Problem

_ENOUGH_PAIRS = 8
_ASSUMED_SAMPLES = 1000
_DECIMALS = 9


@dataclass(frozen=True)
class RacingSettings:
    """When a candidate is not evaluated to the end.

    Attributes:
        fidelities: Shares of the full effort that come before it, ascending, each in (0, 1).
        confidence: By how many standard deviations a candidate must be behind to be dropped; more is more careful.
        keep: Largest share of a rung that goes up with one objective, those of least loss first where the loss is measured;
            1 for no limit.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fidelities: tuple[float, ...] = (0.1,)
    confidence: float = 1.5
    keep: float = 0.2

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.fidelities, self.fidelities[1:], strict=False))
        if not self.fidelities or not ascending or self.fidelities[0] <= 0.0 or self.fidelities[-1] >= 1.0:
            raise ValueError(f"fidelities: expected ascending shares above 0 and below 1, got {list(self.fidelities)}")
        if not self.confidence >= 0.0:
            raise ValueError(f"confidence: expected a number of standard deviations, 0 or more, got {self.confidence}")
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep: expected a share above 0 and at most 1, got {self.keep}")


class Race:
    """Decides at the end of a rung who goes up (ours, after racing: Maron and Moore 1997).

    A rung score predicts the full one, with a standard deviation, by :class:`SubsetError`, which learns from the
    candidates measured at both. Before there are enough of those, scores in [0, 1] are taken as shares of right
    answers in a sample without replacement (of ``tables["samples"]["search"]`` samples, 1000 if not given); other
    scores promote everybody.

    On a subset the loss tells good candidates apart before a share of right answers can (on a ResNet-20 its correlation
    with the full top-1 was 0.81 against 0.50), so with one objective the best ``keep`` of a rung by loss go up at the most.

    A candidate is dropped when at least ``depth`` others are ahead of it (several objectives: dominate it) even after
    a margin of ``confidence`` deviations is granted to it. Costs are exact at every fidelity and get no margin.
    """

    def __init__(self, problem: Problem, settings: RacingSettings, depth: int, elite: int) -> None:
        self._problem = problem
        self._settings = settings
        self._depth = depth
        self._elite = elite
        self._samples = int(problem.tables.get("samples", {}).get("search", _ASSUMED_SAMPLES))
        self._errors = {fidelity: [SubsetError() for _ in problem.objectives] for fidelity in settings.fidelities}

    def observe(self, fidelity: float, individual: Individual, rung: Mapping[str, float], full: Mapping[str, float]) -> None:
        """Learn from a candidate measured at a rung and in full."""
        differences = np.subtract(gains(full, self._problem), gains(rung, self._problem))
        for error, difference in zip(self._errors[fidelity], differences, strict=True):
            error.observe(np.concatenate(individual.masks), float(difference))

    def promoted(
        self,
        fidelity: float,
        members: Sequence[Individual],
        measured: Sequence[Mapping[str, float]],
        population: Sequence[Individual],
    ) -> list[Individual]:
        """Return the members that go up, in their order.

        Args:
            fidelity: The rung that is complete.
            members: Candidates measured at it without failing.
            measured: Their metrics at this fidelity.
            population: Survivors so far, measured in full.
        """
        if not members:
            return []
        predicted, margin = self._predicted(fidelity, members, measured)
        fitnesses = [one.fitness for one in population if one.fitness is not None]
        known = np.array([fitness.wvalues[1:] for fitness in fitnesses if fitness.wvalues[0] == 0.0])
        behind = np.zeros(len(members), dtype=int)
        for row in range(len(members)):
            if len(known):
                behind[row] += _ahead(known, predicted[row] + margin[row]).sum()
            # Rung-mates are uncertain themselves: the margin of a difference of two.
            behind[row] += _ahead(predicted, predicted[row] + math.sqrt(2.0) * margin[row]).sum()
        going = behind < self._depth
        least = 1 if population else self._elite
        order = np.argsort(-predicted[:, 0], kind="stable")
        if len(self._problem.objectives) == 1:
            if all("loss" in metrics for metrics in measured):
                order = np.argsort([metrics["loss"] for metrics in measured], kind="stable")
            going[order[max(least, math.ceil(self._settings.keep * len(members))) :]] = False
        going[order[:least]] = True
        return [member for member, goes in zip(members, going, strict=True) if goes]

    def _predicted(
        self, fidelity: float, members: Sequence[Individual], measured: Sequence[Mapping[str, float]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return expected full gains and the margins on them, both of shape ``(members, objectives)``."""
        predicted = np.array([gains(metrics, self._problem) for metrics in measured])
        margin = np.zeros(predicted.shape)
        bits = [np.concatenate(member.masks) for member in members]
        for column, objective in enumerate(self._problem.objectives):
            if objective.metric in members[0].exact:
                continue
            error = self._errors[fidelity][column]
            if len(error) >= _ENOUGH_PAIRS:
                difference, deviation = error.predict(bits)
                predicted[:, column] += difference
            else:
                deviation = _binomial_deviation(predicted[:, column], fidelity, self._samples)
            margin[:, column] = self._settings.confidence * deviation
        # The last bits of linear algebra depend on the number of threads; decisions must not.
        return np.round(predicted, _DECIMALS), np.round(margin, _DECIMALS)


def _ahead(others: NDArray[np.float64], optimistic: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((others >= optimistic).all(axis=1) & (others > optimistic).any(axis=1))


def _binomial_deviation(scores: NDArray[np.float64], fidelity: float, samples: int) -> NDArray[np.float64]:
    """Return the standard deviation of full - rung for shares of right answers, else one that drops nobody."""
    if (np.abs(scores) > 1.0).any():
        return np.full(scores.shape, 1e9)
    seen = max(fidelity * samples, 1.0)
    smoothed = (np.abs(scores) * seen + 1.0) / (seen + 2.0)
    return np.asarray(np.sqrt(smoothed * (1.0 - smoothed) * (1.0 - fidelity) / seen))
