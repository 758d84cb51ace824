"""A space of channels and bits without networks: a chain of layers, each with a keep-mask and the bits of weights and input."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from search.study.problem import Objective, Problem, Target
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain, Mask

TOP1 = Objective("top1", "maximize")
SIZE = Objective("size_bytes", "minimize")
BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class Point:
    decision: str
    layer: str


class MixedSpace(SearchSpace):
    """Layer ``i`` reads the channels of layer ``i - 1``; the first reads one, and the classifier behind has two outputs."""

    def __init__(self, sizes: Sequence[int], bits: Sequence[int] = BITS) -> None:
        self.layers = [f"layer{i}" for i in range(len(sizes))]
        self.masks = {name: Mask(size) for name, size in zip(self.layers, sizes, strict=True)}
        self.bits = {f"{name}.{kind}": Choice(tuple(bits)) for name in self.layers for kind in ("weight", "activation")}
        self.quantizers = [Point(name, name.rpartition(".")[0]) for name in self.bits]
        self._domains: dict[str, Domain] = {**self.masks, **self.bits}

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self._domains

    def costs(self, candidate: Candidate) -> dict[str, float]:
        kept = [1, *(str(candidate.values[name]).count("1") for name in self.layers)]
        macs = [left * right * 4.0 ** max(0, 2 - i) for i, (left, right) in enumerate(itertools.pairwise(kept))]
        weights = [left * right for left, right in itertools.pairwise(kept)]
        w, a = ([int(candidate.values[f"{name}.{kind}"]) for name in self.layers] for kind in ("weight", "activation"))
        return {
            "macs": sum(macs),
            "size_bytes": 4.0 * sum(kept) + sum(-(-count * bits // 8) for count, bits in zip(weights, w, strict=True)),
            "bit_operations": sum(count * one * other for count, one, other in zip(macs, w, a, strict=True)),
        }

    def whole(self) -> Candidate:
        return Candidate({**{name: "1" * d.length for name, d in self.masks.items()}, **dict.fromkeys(self.bits, 8)})

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def mixed_problem(
    space: MixedSpace, objectives: Sequence[Objective] = (TOP1,), omega: bool = True, seed: int = 0, **shares: float
) -> Problem:
    """Return a problem with targets as shares of the costs of all channels with 8 bits."""
    rng = np.random.default_rng(seed)
    tables: dict[str, Any] = {"importance": {name: rng.gamma(2.0, size=mask.length) for name, mask in space.masks.items()}}
    heights = {name: float(rng.lognormal(0.0, 1.0)) for name in space.bits}
    if omega:
        tables["omega"] = {name: {b: height * 4.0**-b for b in BITS} for name, height in heights.items()}
    whole = space.costs(space.whole())
    targets = [Target(metric, share * whole[metric]) for metric, share in shares.items()]
    return Problem(space, list(objectives), targets, tables)


@dataclass
class Saturating:
    """Fitness in (0, 1): what the kept channels are worth, less what few bits cost; the two hurt each other."""

    problem: Problem
    seed: int = 0
    _hidden: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 7])
        known = self.problem.tables["importance"]
        self._hidden = {name: values * rng.lognormal(0.0, 0.5, len(values)) for name, values in known.items()}
        self._noise = {name: float(rng.lognormal(0.0, 0.7)) for name, d in self.problem.space.domains.items()}

    def __call__(self, candidate: Candidate, fidelity: float) -> dict[str, float]:
        worth, noise = 0.0, 0.0
        for name, value in candidate.values.items():
            if isinstance(value, str):
                kept = np.array([bit == "1" for bit in value])
                worth += float(np.sqrt(self._hidden[name][kept].sum() / self._hidden[name].sum()))
            else:
                noise += self._noise[name] * 3.0 ** -int(value)
        quality = worth / len(self._hidden) - noise / worth
        return {"top1": float(1.0 / (1.0 + np.exp(-8.0 * (quality - 0.6)))), **self.problem.space.costs(candidate)}
