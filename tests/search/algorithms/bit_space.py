"""A space of bit-widths without networks, with a table of Omega and costs as real layers have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain

OMEGA = Objective("omega", "minimize")
SIZE = Objective("size_bytes", "minimize")


@dataclass(frozen=True)
class Point:
    decision: str
    layer: str


class BitSpace(SearchSpace):
    """Layers with weights and inputs, and one addition; sizes and MACs of layers differ by orders of magnitude."""

    def __init__(self, layers: int, seed: int = 0, bits: Sequence[int] = (2, 3, 4, 6, 8), activations: Sequence[int] = (8,)):
        rng = np.random.default_rng([seed, 5])
        self.weights = {f"layer{i}": int(size) for i, size in enumerate(np.exp(rng.uniform(5.0, 11.0, layers)))}
        self.macs = {name: float(int(size * 4 ** rng.uniform(0.0, 4.0))) for name, size in self.weights.items()}
        self._domains: dict[str, Domain] = {}
        for name in self.weights:
            self._domains |= {f"{name}.weight": Choice(tuple(bits)), f"{name}.activation": Choice(tuple(activations))}
        self._domains["add.activation"] = Choice(tuple(activations))
        self.quantizers = [Point(name, name.rpartition(".")[0]) for name in self._domains]
        # Errors fall by four with each bit, not quite, and more or less so from layer to layer.
        self.table = {}
        for name, domain in self._domains.items():
            height = float(np.exp(rng.normal(0.0, 1.5))) * self.weights.get(name.removesuffix(".weight"), 3000) ** 0.5
            fall = rng.uniform(3.2, 4.2)
            noise = np.exp(rng.normal(0.0, 0.05, 9))
            self.table[name] = {int(b): height * fall ** -float(b) * float(noise[b]) for b in domain.options}

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self._domains

    def costs(self, candidate: Candidate) -> dict[str, float]:
        bits = candidate.values
        return {
            "size_bytes": 1000.0 + sum(-(-size * bits[f"{n}.weight"] // 8) for n, size in self.weights.items()),
            "bit_operations": sum(macs * bits[f"{n}.weight"] * bits[f"{n}.activation"] for n, macs in self.macs.items()),
        }

    def omega(self, candidate: Candidate) -> float:
        return sum(entries[candidate.values[name]] for name, entries in self.table.items())

    def most(self) -> Candidate:
        return Candidate({name: max(domain.options) for name, domain in self._domains.items()})

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


def bit_problem(
    space: BitSpace,
    objectives: Sequence[Objective] = (OMEGA,),
    tables: Mapping[str, Any] | None = None,
    **shares: float,
) -> Problem:
    """Return a problem with targets as shares of the costs of the most bits everywhere."""
    whole = space.costs(space.most())
    targets = [Target(metric, share * whole[metric]) for metric, share in shares.items()]
    return Problem(space, list(objectives), targets, {"omega": space.table, **(tables or {})})


class ByTable:
    """What a network would measure that is as the table says; with training, Omega moves from trial to trial."""

    def __init__(self, space: BitSpace, moves: float = 0.0) -> None:
        self.space, self.moves = space, moves

    def __call__(self, candidate: Candidate, fidelity: float) -> dict[str, float]:
        shift = 1.0 + self.moves * (int(candidate.fingerprint[:4], 16) / 65536 - 0.5)
        return {"omega": self.space.omega(candidate) * shift, **self.space.costs(candidate)}


def measured(number: int, proposal: Proposal, space: BitSpace) -> Trial:
    return Trial(number, proposal, "complete", ByTable(space)(proposal.candidate, proposal.fidelity))
