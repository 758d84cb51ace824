"""Reproduction: make the first generation, and each next one from the survivors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks
from search.algorithms.encoding.sampling import Channels, bernoulli, blurred_scores, random_masks
from search.algorithms.encoding.sweep import Sweep
from search.algorithms.encoding.uniform import greedy
from search.algorithms.genetics.individual import Individual, best_first, select_parents
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.genetics.variation import FactorVariation, MaskVariation, Variation

_TRIES_PER_CHILD = 8
_WORTH_TRYING = 0.2
_GREEDY_MIXES = (1.0, 0.0, 0.5, 0.75, 0.25)


class Reproduction:
    """Makes generations of new candidates, each drawn from a generator seeded by ``(seed, generation)``.

    Attributes:
        visited: Fingerprints of the candidates not to be made again.
    """

    def __init__(self, encoding: ChannelEncoding, settings: GeneticSettings, seed: int) -> None:
        """Choose the variation for the encoding."""
        self._encoding = encoding
        self._settings = settings
        self._seed = seed
        self._several = len(encoding.problem.objectives) > 1
        kind = MaskVariation if settings.encoding == "mask" and not encoding.prefixes else FactorVariation
        self._variation: Variation = kind(encoding, settings.crossover, settings.mutation, self._several)
        self._sweep = Sweep(encoding, self._variation.prefixes)
        self.visited: set[str] = set()

    def reward_operators(self, made: Sequence[Individual], survived: Sequence[Individual]) -> None:
        """Update the operator selection with a generation and those of it that survived."""
        self._variation.reward_operators(made, survived)

    def first(self) -> list[Individual]:
        """Return the first generation: up to half starting points and greedy masks, the rest drawn around these."""
        rng = np.random.default_rng([self._seed, 0])
        fresh = _Generation(self.visited)
        half = max(2, self._settings.population // 2)
        greedy_masks = _spread([*self._starts(), *self._greedy_masks()], half)
        for masks in greedy_masks:
            fresh.add(self._variation.individual(masks))
        for attempt in range(self._settings.population * _TRIES_PER_CHILD):
            if len(fresh.made) < self._settings.population:
                fresh.add(self._sampled(greedy_masks[attempt % len(greedy_masks)], rng))
        self._top_up(fresh, self._settings.population, [], rng)
        return fresh.made

    def next(self, generation: int, population: list[Individual], count: int) -> list[Individual]:
        """Return up to ``count`` children of ``population``; fewer only when the space is exhausted."""
        rng = np.random.default_rng([self._seed, generation])
        fresh = _Generation(self.visited)
        for _ in range(_TRIES_PER_CHILD if population else 0):
            before = len(fresh.made)
            parents = select_parents(population, 2 * count, self._settings.tournament, rng)
            for first, second in zip(parents[::2], parents[1::2], strict=True):
                if len(fresh.made) < count:
                    fresh.add(self._variation.child(first, second, rng))
            if len(fresh.made) - before < count * _WORTH_TRYING:
                break
        self._top_up(fresh, count, population, rng)
        return fresh.made

    def _starts(self) -> Iterator[Masks]:
        """Yield the starting points of the problem that keep the targets."""
        for candidate in self._encoding.problem.starts:
            if not self._encoding.constrained or self._encoding.load_of(candidate) <= 1.0:
                yield self._encoding.masks(candidate)

    def _greedy_masks(self) -> Iterator[Masks]:
        loads = (1.0, *self._settings.seed_ratios) if self._several or not self._encoding.constrained else (1.0,)
        for load in loads:
            for globally in _GREEDY_MIXES if self._encoding.constrained and load == 1.0 else _GREEDY_MIXES[:2]:
                yield greedy(self._encoding, globally, load)

    def _sampled(self, around: Masks, rng: np.random.Generator) -> Individual:
        if self._variation.prefixes:
            drawn, scores, origins = list(around), self._encoding.scores, []
            for layer, mask in enumerate(around):
                kept = round(float(mask.sum()) * float(rng.lognormal(0.0, 0.25)))
                drawn[layer] = self._encoding.strongest(layer, max(1, min(len(mask), kept)))
        else:
            name, factor = self._variation.factor(rng)
            drawn = bernoulli(self._encoding, rng, around, factor)
            scores, origins = blurred_scores(self._encoding, rng, factor), [name]
        return self._variation.individual(self._variation.repaired(drawn, scores, rng), origins)

    def _top_up(self, fresh: _Generation, count: int, population: list[Individual], rng: np.random.Generator) -> None:
        """Fill a generation up to ``count``: in a small space by the nearest to the best, in a large one by random masks."""
        if self._sweep.possible:
            best = best_first(population)
            around = [one.masks for one in (best if self._several else best[: self._settings.elite])]
            for masks in self._sweep.unvisited(fresh.seen, around, count - len(fresh.made)):
                fresh.add(self._variation.individual(masks))
            return
        for attempt in range(_TRIES_PER_CHILD * count):
            if len(fresh.made) >= count:
                return
            channels: Channels = "importance" if attempt < 2 * count or self._variation.prefixes else "random"
            fresh.add(self._variation.individual(random_masks(self._encoding, rng, channels)))


def _spread(masks: list[Masks], count: int) -> list[Masks]:
    """Return ``count`` of ``masks``: the first two, and others evenly spaced over the list."""
    if len(masks) <= count:
        return masks
    rest = np.linspace(2, len(masks) - 1, count - 2).round().astype(int)
    return [*masks[:2], *(masks[index] for index in dict.fromkeys(rest.tolist()))]


class _Generation:
    """A generation under construction, without candidates made before."""

    def __init__(self, visited: set[str]) -> None:
        self.made: list[Individual] = []
        self.seen = set(visited)

    def add(self, individual: Individual) -> None:
        if individual.fingerprint not in self.seen:
            self.seen.add(individual.fingerprint)
            self.made.append(individual)
