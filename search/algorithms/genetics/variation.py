"""Crossover and mutation of keep-masks and of thresholds, each followed by repair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from deap import tools
from numpy.typing import NDArray

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks, Scores
from search.algorithms.encoding.repair import fit_to_targets, nearest_count
from search.algorithms.encoding.sampling import blurred_scores
from search.algorithms.genetics.deap_draws import deap_draws_from
from search.algorithms.genetics.individual import Individual
from search.algorithms.genetics.operator_selection import OperatorSelection
from search.algorithms.mixed_starts import optimal_bits

_FACTORS = {"factor 0.3": 0.3, "factor 0.6": 0.6, "factor 0.85": 0.85, "factor 1": 1.0}
_PREFERENCE_SPREAD = 0.5
_FILL_SINGLE = 0.9
_FILL_SEVERAL = 0.5


class Variation(ABC):
    """Crossover and mutation in one encoding of the masks.

    Args:
        encoding: The problem's masks and costs.
        crossover: Probability of a second parent.
        mutation: Probability of mutating a child of two parents.
        several: Whether there are several objectives.

    Class attributes:
        prefixes: Whether children keep only a prefix of each layer's channels by importance.
        mutations: Names of the mutation operators.
        crossovers: Names of the crossover operators.
    """

    prefixes: bool
    mutations: tuple[str, ...]
    crossovers: tuple[str, ...]

    def __init__(self, encoding: ChannelEncoding, crossover: float, mutation: float, several: bool) -> None:
        """Start with equal success rates of all operators."""
        self.encoding = encoding
        self._crossover = crossover
        self._mutation = mutation
        self._fill = _FILL_SEVERAL if several else _FILL_SINGLE
        self._factors = OperatorSelection(list(_FACTORS))
        self._mutations = OperatorSelection(self.mutations)
        self._crossovers = OperatorSelection(self.crossovers)

    @abstractmethod
    def genes(self, masks: Masks) -> list[object]:
        """Return the genes that encode ``masks``, one per layer."""

    @abstractmethod
    def child(self, first: Individual, second: Individual, rng: np.random.Generator) -> Individual:
        """Return a repaired child of ``first``; crossover, if drawn, exchanges genes with ``second``."""

    def reward_operators(self, made: Sequence[Individual], survived: Sequence[Individual]) -> None:
        """Update the selection of factors and operators with a generation and those of it that survived."""
        all_origins = [origin for one in made for origin in one.origins]
        good_origins = [origin for one in survived for origin in one.origins]
        for selection in (self._factors, self._mutations, self._crossovers):
            selection.update(all_origins, good_origins)

    def individual(self, masks: Masks, origins: Sequence[str] = ()) -> Individual:
        """Return legal ``masks`` as an individual."""
        candidate = self.encoding.candidate(masks)
        costs = self.encoding.problem.space.costs(candidate)
        return Individual(self.genes(masks), masks, candidate, costs, origins)

    def factor(self, rng: np.random.Generator) -> tuple[str, float]:
        """Draw the evaluation factor: its name and its value, the weight of importance against chance."""
        name = self._factors.draw(rng)
        return name, _FACTORS[name]

    def repaired(self, masks: Masks, scores: Scores, rng: np.random.Generator) -> Masks:
        """Return legal ``masks`` that keep the targets and, with the probability of filling, use them up.

        Without filling, a smaller network is tried, which can be better.
        """
        limit = 1.0 if self.encoding.constrained else None
        preference = rng.lognormal(0.0, _PREFERENCE_SPREAD, size=len(masks))
        fill = bool(rng.random() < self._fill)
        return fit_to_targets(self.encoding, masks, scores, limit=limit, preference=preference, per_cost=True, fill=fill)


class MaskVariation(Variation):
    """One bit per channel or level: crossover exchanges layers or bits; mutation flips, resizes, swaps and transfers.

    In a space of channels and bits with a table of Omega, some children take the bits of least Omega for their channels
    (``program``), the others the inherited and repaired bits (ours).
    """

    prefixes = False
    mutations = ("flip", "ratio", "swap", "transfer")
    crossovers = ("layers", "bits")

    def __init__(self, encoding: ChannelEncoding, crossover: float, mutation: float, several: bool) -> None:
        """Select between ``program`` and ``inherited`` bits, if the problem has a table of Omega."""
        super().__init__(encoding, crossover, mutation, several)
        programs = encoding.mixed and encoding.constrained and "omega" in encoding.problem.tables
        self._bit_choice = OperatorSelection(("program", "inherited")) if programs else None

    def reward_operators(self, made: Sequence[Individual], survived: Sequence[Individual]) -> None:
        """Update the selection of factors, operators and bits with a generation and those of it that survived."""
        super().reward_operators(made, survived)
        if self._bit_choice is not None:
            made_by, kept = ([origin for one in some for origin in one.origins] for some in (made, survived))
            self._bit_choice.update(made_by, kept)

    def genes(self, masks: Masks) -> list[object]:
        """Return the masks themselves."""
        return list(masks)

    def child(self, first: Individual, second: Individual, rng: np.random.Generator) -> Individual:
        """Return a repaired child of ``first``; crossover, if drawn, exchanges layers or bits with ``second``."""
        masks = [mask.copy() for mask in first.masks]
        factor_name, factor = self.factor(rng)
        origins = [factor_name]
        crossed = rng.random() < self._crossover and first is not second
        if crossed:
            origins.append(self._crossovers.draw(rng))
            self._cross(origins[-1], masks, [mask.copy() for mask in second.masks], rng)
        scores = blurred_scores(self.encoding, rng, factor)
        if not crossed or rng.random() < self._mutation:
            origins.append(self._mutations.draw(rng))
            if origins[-1] == "transfer":
                return self._finished(self._transfer(masks, scores, rng), origins, rng)
            self._mutate(origins[-1], masks, scores, rng)
        return self._finished(self.repaired(masks, scores, rng), origins, rng)

    def _finished(self, masks: Masks, origins: list[str], rng: np.random.Generator) -> Individual:
        """Return repaired masks as an individual; its bits are the integer program's if that is drawn."""
        if self._bit_choice is not None:
            origins.append(self._bit_choice.draw(rng))
            if origins[-1] == "program":
                masks = self._with_optimal_bits(masks)
        return self.individual(masks, origins)

    def _cross(self, kind: str, masks: Masks, other: Masks, rng: np.random.Generator) -> None:
        with deap_draws_from(rng):
            if kind == "layers":
                tools.cxUniform(masks, other, 0.5)
                return
            for mine, theirs in zip(masks, other, strict=True):
                tools.cxUniform(mine, theirs, 0.5)

    def _mutate(self, kind: str, masks: Masks, scores: Scores, rng: np.random.Generator) -> None:
        if kind == "flip":
            chance = float(rng.geometric(0.5)) / sum(len(mask) for mask in masks)
            with deap_draws_from(rng):
                for mask in masks:
                    tools.mutFlipBit(mask, chance)
            return
        for layer in self._some_layers(rng):
            kept = int(masks[layer].sum())
            if kind == "ratio":
                masks[layer] = resized(masks[layer], scores[layer], self._other_count(layer, kept, rng))
            else:
                number = min(int(rng.geometric(0.5)), kept, len(masks[layer]) - kept)
                masks[layer] = _swapped(masks[layer], scores[layer], number)

    def _transfer(self, masks: Masks, scores: Scores, rng: np.random.Generator) -> Masks:
        """Shrink one layer and grow others, one with preference, to the load before or to the target."""
        load = self.encoding.load([mask.copy() for mask in masks])
        shrinkable = [layer for layer, mask in enumerate(masks) if mask.sum() > self.encoding.counts[layer][0]]
        if shrinkable:
            layer = int(rng.choice(shrinkable))
            below = self.encoding.counts[layer][self.encoding.counts[layer] < masks[layer].sum()]
            steps = min(int(rng.geometric(0.4)), len(below))
            masks[layer] = resized(masks[layer], scores[layer], int(below[-steps]))
            preference = rng.lognormal(0.0, _PREFERENCE_SPREAD, size=len(masks))
            preference[layer] *= 1e-3
            preference[int(rng.integers(len(masks)))] *= 1e3
        else:
            preference = np.ones(len(masks))
        limit = 1.0 if self.encoding.constrained and (load > 1.0 or rng.random() < self._fill) else load
        return fit_to_targets(self.encoding, masks, scores, limit=limit, preference=preference, per_cost=True)

    def _with_optimal_bits(self, masks: Masks) -> Masks:
        """Return ``masks`` with the bits of least Omega for their channels; unchanged if none keep the targets."""
        encoding = self.encoding
        given = encoding.candidate(masks).values
        channels = {
            name: given[name]
            for layer, name in enumerate(encoding.names)
            if not encoding.is_level(layer) or layer in encoding.wholes
        }
        found = optimal_bits(encoding.problem, channels)
        return masks if found is None else encoding.masks(found)

    def _some_layers(self, rng: np.random.Generator) -> list[int]:
        open_layers = [layer for layer, counts in enumerate(self.encoding.counts) if len(counts) > 1]
        number = min(int(rng.geometric(0.5)), len(open_layers))
        return [int(layer) for layer in rng.choice(open_layers, size=number, replace=False)] if open_layers else []

    def _other_count(self, layer: int, kept: int, rng: np.random.Generator) -> int:
        """Draw another legal count for a layer from a log-normal distribution around ``kept``."""
        legal = self.encoding.counts[layer]
        drawn = nearest_count(legal, round(kept * float(rng.lognormal(0.0, 0.3))))
        if drawn != kept:
            return drawn
        position = int(np.searchsorted(legal, drawn)) + (1 if rng.random() < 0.5 else -1)
        return int(legal[min(max(position, 0), len(legal) - 1)])


class FactorVariation(Variation):
    """One threshold per layer: channels of importance above ``gene * mean importance`` are kept."""

    prefixes = True
    mutations = ("gaussian",)
    crossovers = ("layers", "blend")

    def genes(self, masks: Masks) -> list[object]:
        """Return the threshold of each layer, in units of its mean importance."""
        return [self._threshold(layer, int(mask.sum())) for layer, mask in enumerate(masks)]

    def child(self, first: Individual, second: Individual, rng: np.random.Generator) -> Individual:
        """Return a repaired child of ``first``; crossover, if drawn, exchanges or blends thresholds with ``second``."""
        genes, other = [float(gene) for gene in first], [float(gene) for gene in second]
        origins = []
        crossed = rng.random() < self._crossover and first is not second
        if crossed:
            origins.append(self._crossovers.draw(rng))
            with deap_draws_from(rng):
                if origins[-1] == "layers":
                    tools.cxUniform(genes, other, 0.5)
                else:
                    tools.cxBlend(genes, other, 0.3)
        if not crossed or rng.random() < self._mutation:
            origins.append("gaussian")
            spread = [0.05 + 0.25 * abs(gene) for gene in genes]
            chance = min(1.0, float(rng.geometric(0.5)) / len(genes))
            with deap_draws_from(rng):
                tools.mutGaussian(genes, mu=0.0, sigma=spread, indpb=chance)
        return self.individual(self.repaired(self.decode(genes), self.encoding.scores, rng), origins)

    def decode(self, genes: Sequence[float]) -> Masks:
        """Return the unrepaired masks of thresholds, one gene per layer."""
        masks = []
        for layer, (gene, values) in enumerate(zip(genes, self.encoding.importance, strict=True)):
            kept = int((values > gene * _scale(values)).sum())
            masks.append(self.encoding.strongest(layer, kept))
        return masks

    def _threshold(self, layer: int, kept: int) -> float:
        """Return the threshold half-way between the least important kept and the most important removed channel."""
        values = np.sort(self.encoding.importance[layer])[::-1] / _scale(self.encoding.importance[layer])
        if kept == len(values):
            return float(values[-1] - 0.05)
        return float(values[kept - 1] + values[kept]) / 2.0


def resized(mask: NDArray[np.bool_], scores: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Return ``mask`` with ``count`` channels kept, removing the lowest scores or restoring the highest."""
    changed = np.zeros(len(mask), dtype=bool)
    changed[np.lexsort((-scores, ~mask))[:count]] = True
    return changed


def _swapped(mask: NDArray[np.bool_], scores: NDArray[np.float64], number: int) -> NDArray[np.bool_]:
    """Exchange the ``number`` kept channels of lowest score with the removed ones of highest score."""
    if number < 1:
        return mask
    order = np.lexsort((-scores, ~mask))
    kept = int(mask.sum())
    changed = mask.copy()
    changed[order[kept - number : kept]] = False
    changed[order[kept : kept + number]] = True
    return changed


def _scale(values: NDArray[np.float64]) -> float:
    return max(float(np.abs(values).mean()), 1e-30)
