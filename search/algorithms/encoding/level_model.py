"""Linear model of what levels cost in quality, by which children are judged before they are measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.study.problem import Problem
from spaces.candidate import Value
from spaces.levels.levels import importance_of

FORGETTING = 0.95
"""Weight of what was learnt before, once a generation has passed: the worth of a level moves with the parent (ours)."""

OWN, COMMON = 1.0, 1.0
"""Standard deviations, before anything is known, of a decision's own elasticity and of what all share (ours)."""

NOISE, NOISE_COUNT = 0.1, 2.0
"""Noise of a gain before anything is known, as a share of the gain, and the number of candidates which that is worth (ours)."""

Vector = NDArray[np.float64]


class LevelModel:
    """Bayesian linear regression of gains on the errors of levels.

    The error of a level is the sum of the importances of the channels that go; by ``second_order`` these are the squared
    errors that they leave in what reads them; of bits it is Omega, where that is measured; of a part that leaves whole its
    divergence alone, where that is measured, else its influence; and without any it falls evenly from 1 to 0 with the levels.
    Before anything is measured quality falls by the share by which the sum over all decisions rises, an elasticity of -1
    (ours); what is measured then corrects that, decision by decision. Candidates that were measured on the same inputs are
    compared with their mean, since two comparisons have nothing else in common. Elasticities drawn from the posterior
    (Thompson sampling: Thompson 1933; Russo et al. 2018, arXiv 1707.02038) try what is not known yet, and leave what is known
    to be bad.

    Args:
        problem: A problem with levels.
    """

    def __init__(self, problem: Problem) -> None:
        self._errors = [_errors(problem, name, levels) for name, levels in problem.levels.items()]
        parts = {part.name for part in problem.space.removable}
        masks = np.array([isinstance(levels[0], str) for levels in problem.levels.values()])
        wholes = np.array([name in parts for name in problem.levels])
        self._kinds = [kind for kind in (masks, wholes, ~masks & ~wholes) if kind.any()]
        size = len(self._errors)
        self._prior = np.linalg.inv(OWN**2 * np.eye(size) + COMMON**2 * np.ones((size, size)))
        self._gram, self._cross = np.zeros((size, size)), np.zeros(size)
        self._square = self._freedom = 0.0

    def forget(self) -> None:
        """Weigh all that was learnt so far less."""
        self._gram *= FORGETTING
        self._cross *= FORGETTING
        self._square *= FORGETTING
        self._freedom *= FORGETTING

    def learn(self, genomes: NDArray[np.int64], gains: Vector, weight: float) -> None:
        """Learn from candidates that were measured on the same inputs.

        Args:
            genomes: Their levels, shape ``(candidates, decisions)``.
            gains: What is to be as large as can be, shape ``(candidates,)``, finite.
            weight: Number of inputs, in any unit: gains on more inputs have less noise.
        """
        level = abs(float(gains.mean())) if len(gains) > 1 else 0.0
        if level == 0.0:
            return
        shares = self._shares(genomes)
        shares = shares - shares.mean(axis=0)
        # What the elasticity of -1 does not explain.
        left = (gains - gains.mean()) / level + shares.sum(axis=1)
        self._gram += weight * shares.T @ shares
        self._cross += weight * shares.T @ left
        self._square += weight * float(left @ left)
        self._freedom += len(gains) - 1

    def expect(self, genomes: NDArray[np.int64], draws: int, rng: np.random.Generator) -> Vector:
        """Return the gains of candidates that drawn elasticities expect, but for a constant, shape ``(draws, candidates)``."""
        noise, size = NOISE**2, len(self._cross)
        precision, mean = self._posterior(noise)
        # The noise is what the mean leaves, over the freedom that it leaves (MacKay 1992, "Bayesian interpolation").
        for _ in range(4):
            left = max(0.0, self._square - 2.0 * float(mean @ self._cross) + float(mean @ self._gram @ mean))
            used = float(np.trace(np.linalg.solve(precision, self._gram / noise)))
            noise = (left + NOISE_COUNT * NOISE**2) / (max(0.0, self._freedom - used) + NOISE_COUNT)
            precision, mean = self._posterior(noise)
        drawn = mean[:, None] + np.linalg.solve(np.linalg.cholesky(precision).T, rng.standard_normal((size, draws)))
        return (drawn - 1.0).T @ self._shares(genomes).T

    def _posterior(self, noise: float) -> tuple[Vector, Vector]:
        """Return precision and mean of what decisions' elasticities differ by from -1, at a variance of the noise."""
        precision: Vector = self._gram / noise + self._prior
        return precision, np.asarray(np.linalg.solve(precision, self._cross / noise), dtype=np.float64)

    def _shares(self, genomes: NDArray[np.int64]) -> Vector:
        """Return the errors of levels as shares of the mean sum over all decisions of the same kind, as ``genomes``."""
        found = np.stack([errors[genomes[:, place]] for place, errors in enumerate(self._errors)], axis=1)
        for kind in self._kinds:
            whole = float(found[:, kind].sum(axis=1).mean())
            found[:, kind] /= whole if whole > 0.0 else 1.0
        return found


def _errors(problem: Problem, name: str, levels: Sequence[Value]) -> Vector:
    """Return the error of every level of a decision, the cheapest first."""
    if isinstance(levels[0], str):
        importance = importance_of(problem.tables.get("importance", {}), name, problem.space.domains[name])
        gone = np.array([[flag == "0" for flag in str(mask)] for mask in levels], dtype=np.float64)
        return gone @ np.maximum(importance, 0.0)
    if any(part.name == name for part in problem.space.removable):
        measured = (problem.tables.get("divergence") or {}).get(name)
        return np.asarray([float(problem.space.gains()[name][-1]), 0.0] if measured is None else measured, dtype=np.float64)
    omega = (problem.tables.get("omega") or {}).get(name)
    if omega is not None:
        return np.array([max(0.0, float(omega[level])) for level in levels])
    return np.linspace(1.0, 0.0, len(levels)) if len(levels) > 1 else np.zeros(1)
