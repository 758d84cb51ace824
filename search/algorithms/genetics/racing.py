"""Racing: select the candidates to measure in full from a cheap measurement on a subset of the samples."""

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
_UNKNOWN = 1e9
"""Standard deviation of a score of which none is known: nothing is behind by that much."""


@dataclass(frozen=True)
class RacingSettings:
    """Options of dropping candidates after a measurement on a subset.

    Attributes:
        fidelities: Shares of the full measurement taken before it, ascending, each in (0, 1).
        confidence: Standard deviations by which a candidate must be behind to be dropped; a larger number drops fewer.
        keep: Largest share of a rung that is promoted with one objective, by least loss if the loss is measured; 1 for no
            limit.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fidelities: tuple[float, ...] = (0.1,)
    confidence: float = 1.5
    keep: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        ascending = all(low < high for low, high in zip(self.fidelities, self.fidelities[1:], strict=False))
        if not self.fidelities or not ascending or self.fidelities[0] <= 0.0 or self.fidelities[-1] >= 1.0:
            raise ValueError(f"fidelities: expected ascending shares above 0 and below 1, got {list(self.fidelities)}")
        if not self.confidence >= 0.0:
            raise ValueError(f"confidence: expected a number of standard deviations, 0 or more, got {self.confidence}")
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep: expected a share above 0 and at most 1, got {self.keep}")


class Race:
    """Selects at the end of a rung the candidates to promote (ours, after racing: Maron and Moore 1997).

    A rung score predicts the full score, with a standard deviation, by :class:`SubsetError`, which learns from the
    candidates measured at both. Before there are enough of those, scores in [0, 1] are taken as shares of correct
    answers in a sample without replacement (of ``tables["samples"]["search"]`` samples, 1000 if not given); with other
    scores, among them metrics that accumulate (``tables["accumulated"]``), every candidate is promoted.

    On a subset the loss separates candidates better than the share of correct answers (on a ResNet-20 its correlation with
    the full top-1 was 0.81 against 0.50), so with one objective at most the share ``keep`` of a rung, by loss, is promoted.

    A candidate is dropped if at least ``depth`` others are ahead of it (with several objectives: dominate it) even after
    ``confidence`` standard deviations are added to its prediction. Costs are exact at every fidelity and get no margin.

    Args:
        problem: Objectives, and the number of samples among the tables.
        settings: Rungs, confidence and the share promoted.
        depth: Number of better candidates that drops one.
        elite: Candidates promoted at least while nothing has been measured in full.
    """

    def __init__(self, problem: Problem, settings: RacingSettings, depth: int, elite: int) -> None:
        """Start without measured pairs."""
        self._problem = problem
        self._settings = settings
        self._depth = depth
        self._elite = elite
        self._samples = int(problem.tables.get("samples", {}).get("search", _ASSUMED_SAMPLES))
        self._accumulated = frozenset(problem.tables.get("accumulated", {}))
        self._errors = {fidelity: [SubsetError() for _ in problem.objectives] for fidelity in settings.fidelities}

    def observe(self, fidelity: float, individual: Individual, rung: Mapping[str, float], full: Mapping[str, float]) -> None:
        """Record a candidate measured at a rung and in full."""
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
        """Return the promoted members, in their order.

        Args:
            fidelity: Fidelity of the complete rung.
            members: Candidates measured at this fidelity without failure.
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
            # Other members are uncertain too: the deviation of a difference of two.
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
        """Return expected gains at full fidelity and their margins, both of shape ``(members, objectives)``."""
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
            elif objective.metric in self._accumulated:
                deviation = np.full(len(members), _UNKNOWN)
            else:
                deviation = _binomial_deviation(predicted[:, column], fidelity, self._samples)
            margin[:, column] = self._settings.confidence * deviation
        # The last digits of linear algebra depend on the number of threads; decisions must not.
        return np.round(predicted, _DECIMALS), np.round(margin, _DECIMALS)


def _ahead(others: NDArray[np.float64], optimistic: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((others >= optimistic).all(axis=1) & (others > optimistic).any(axis=1))


def _binomial_deviation(scores: NDArray[np.float64], fidelity: float, samples: int) -> NDArray[np.float64]:
    """Return the standard deviation of full - rung score for shares of correct answers; 1e9 for other scores."""
    if (np.abs(scores) > 1.0).any():
        return np.full(scores.shape, _UNKNOWN)
    seen = max(fidelity * samples, 1.0)
    smoothed = (np.abs(scores) * seen + 1.0) / (seen + 2.0)
    return np.asarray(np.sqrt(smoothed * (1.0 - smoothed) * (1.0 - fidelity) / seen))
