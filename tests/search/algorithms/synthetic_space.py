"""A search space without networks, and fitness functions on it whose optima are known by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from search.algorithms.testing import drive, failed
from search.algorithms.testing import measured as measure
from search.study.problem import Objective, Problem, Target
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Domain, Mask

__all__ = ["MACS", "TOP1", "ImageByImage", "Interacting", "SyntheticSpace", "bits", "drive", "failed", "measure", "problem_of"]

TOP1 = Objective("top1", "maximize")
MACS = Objective("macs", "minimize")


class SyntheticSpace(SearchSpace):
    """A chain of layers: MACs are the products of neighbouring layers' kept counts, between one input and two outputs."""

    def __init__(self, sizes: Sequence[int], multiple: int = 1, minimum: int = 1) -> None:
        self._domains = {f"layer{i}": Mask(size, minimum, multiple) for i, size in enumerate(sizes)}
        self.areas = [float(4 ** max(0, 2 - i)) for i in range(len(sizes) + 1)]

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self._domains

    def costs(self, candidate: Candidate) -> dict[str, float]:
        kept = [1, *(str(candidate.values[name]).count("1") for name in self._domains), 2]
        pairs = zip(self.areas, kept[:-1], kept[1:], strict=True)
        return {
            "macs": sum(area * left * right for area, left, right in pairs),
            "parameters": float(sum(left * right for left, right in itertools.pairwise(kept))),
        }

    def dense(self) -> Candidate:
        return Candidate({name: "1" * domain.length for name, domain in self._domains.items()})

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def problem_of(
    space: SyntheticSpace,
    target: float | None = 0.5,
    objectives: Sequence[Objective] = (TOP1,),
    seed: int = 0,
    tables: Mapping[str, Any] | None = None,
) -> Problem:
    """Return a problem with random importance and, with ``target``, a limit on MACs as a share of the dense network's."""
    rng = np.random.default_rng(seed)
    importance = {name: rng.gamma(2.0, size=domain.length) for name, domain in space._domains.items()}
    limits = [] if target is None else [Target("macs", target * space.costs(space.dense())["macs"])]
    return Problem(space, list(objectives), limits, {"importance": importance, **(tables or {})})


def bits(candidate: Candidate) -> np.ndarray:
    """Return all bits of a candidate in a row, shape ``(channels,)``."""
    return np.concatenate([np.frombuffer(str(value).encode(), dtype=np.uint8) - 48 for value in candidate.values.values()])


@dataclass
class Interacting:
    """Fitness in (0, 1): channels matter more or less, pairs of them help or hurt one another, and each layer saturates."""

    problem: Problem
    seed: int = 0
    strength: float = 1.0
    _tables: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        known = np.concatenate([self.problem.tables["importance"][name] for name in self.problem.space.domains])
        hidden = known * rng.lognormal(0.0, 0.6, size=len(known))
        pairs = rng.normal(0.0, 1.0, size=(len(known), len(known))) * (rng.random((len(known), len(known))) < 0.3)
        self._tables = hidden, self.strength * np.triu(pairs, 1) * hidden.mean() / np.sqrt(len(known))

    def raw(self, candidate: Candidate) -> float:
        hidden, pairs = self._tables
        x = bits(candidate).astype(float)
        borders = np.cumsum([len(str(value)) for value in candidate.values.values()])[:-1]
        layers = [
            np.sqrt(kept.sum() / whole.sum())
            for kept, whole in zip(np.split(x * hidden, borders), np.split(hidden, borders), strict=True)
        ]
        return float(np.mean(layers) + x @ pairs @ x / hidden.sum())

    def __call__(self, candidate: Candidate, fidelity: float) -> dict[str, float]:
        score = 1.0 / (1.0 + np.exp(-6.0 * (self.raw(candidate) - 0.6)))
        return {"top1": float(score), **self.problem.space.costs(candidate)}


class ImageByImage:
    """Fitness as measured: the share of right answers over the first images of a hidden candidate x image table.

    An image is answered rightly when the candidate's quality exceeds the image's difficulty, both moved by a term that
    depends on which channels are kept, so that similar candidates agree on most images.
    """

    def __init__(self, problem: Problem, images: int = 4000, seed: int = 0, own: float = 1.0) -> None:
        rng = np.random.default_rng([seed, 11])
        self.quality = Interacting(problem, seed)
        self.problem = problem
        self.difficulty = rng.normal(0.0, 1.5, size=images)
        channels = sum(len(values) for values in problem.tables["importance"].values())
        self.directions = rng.normal(0.0, own / np.sqrt(channels), size=(images, channels))
        self.effort = 0.0

    def __call__(self, candidate: Candidate, fidelity: float) -> dict[str, float]:
        self.effort += fidelity
        seen = max(1, round(fidelity * len(self.difficulty)))
        lean = self.directions[:seen] @ (2.0 * bits(candidate) - 1.0)
        right = 10.0 * (self.quality.raw(candidate) - 0.75) + lean > self.difficulty[:seen]
        return {"top1": float(right.mean()), **self.problem.space.costs(candidate)}
