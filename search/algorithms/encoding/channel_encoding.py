"""Keep-masks and ordered choices as boolean arrays, with importance and costs, for the algorithms that search them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.study.problem import Problem
from spaces.candidate import Candidate, KeepMask, Value
from spaces.domains import Domain, Mask
from spaces.errors import SecateursError
from spaces.levels.levels import best_first, importance_of, ordered_levels

Masks = list[NDArray[np.bool_]]
"""One boolean array of shape ``(channels,)`` per layer, in the order of the space's domains."""
Scores = list[NDArray[np.float64]]
"""One value per channel, in the layout of :data:`Masks`; channels of lower scores are removed first."""


class UnreachableTargetError(SecateursError):
    """Even the smallest candidate of the space exceeds a target."""


class ChannelEncoding:
    """Decisions of one problem as boolean arrays, with their importance and their analytic costs.

    A keep-mask is encoded as itself. A choice among numbers, or a decision of an ordinal space, is encoded as a mask over its
    levels, the cheapest first, that keeps a prefix: the number kept gives the level.

    Attributes:
        names: Decision names, in graph order.
        domains: Domains of the encoded masks.
        counts: Legal numbers of kept channels or levels of each decision, ascending.
        importance: Importance of each channel by the tables, or gain of reaching each level, shape ``(channels,)`` for each
            decision.
        ranks: Importance as a rank in (0, 1), 1 the most important, ties to the earlier channel; shapes as ``importance``.
        scores: Ranks; for choices with a table of Omega the fall of Omega, scaled so that decisions of both kinds are worth
            the same on average; for parts that leave whole, beside decisions of other kinds, the rank of the part among them.
        wholes: Numbers of the decisions on parts that leave whole.
        targets: Targets on analytic costs.
        constrained: Whether there are such targets.
        capped: Whether the space sets limits of its own.
    """

    def __init__(self, problem: Problem) -> None:
        """Read the space's domains and the tables' importance.

        Raises:
            NoLevelsError: A domain is neither a ``Mask`` nor a choice of numbers.
            SecateursError: Importance is missing or does not fit a domain.
            UnreachableTargetError: The smallest candidate exceeds a target.
        """
        self.problem = problem
        space = problem.space
        self._ordinal = space.levels
        parts = {part.name for part in space.removable}
        self.wholes = [layer for layer, name in enumerate(space.domains) if name in parts]
        self.capped = bool(problem.caps)
        self.names = list(space.domains)
        self._levels = [ordered_levels(name, domain, space.levels) for name, domain in space.domains.items()]
        self.domains: list[Domain] = [
            space.domains[name] if levels is None else Mask(len(levels))
            for name, levels in zip(self.names, self._levels, strict=True)
        ]
        self.counts = [np.array(domain.legal_counts()) for domain in self.domains]
        table = problem.tables.get("importance") if self._ordinal is None else space.gains()
        self.importance = [self._importance_of(layer, table) for layer in range(len(self.names))]
        self.ranks = [best_first_ranks(values) for values in self.importance]
        self.scores = self._scores()
        dense = self.costs(self.full())
        self.targets = [target for target in problem.targets if target.metric in dense and not self.budgeted]
        self.constrained = bool(self.targets)
        self._size_metric = self._choose_size_metric(dense)
        self._dense_size = dense[self._size_metric] if self._size_metric else 1.0
        self._channels = sum(domain.channels for domain in self.domains)
        self._check_targets_reachable()

    def is_level(self, layer: int) -> bool:
        """Return whether decision number ``layer`` is encoded as levels, of which a prefix is kept."""
        return self._levels[layer] is not None

    @property
    def prefixes(self) -> bool:
        """True if all decisions are encoded as levels."""
        return all(levels is not None for levels in self._levels)

    @property
    def mixed(self) -> bool:
        """True if some decisions are keep-masks and others are encoded as levels."""
        return not self.prefixes and any(levels is not None for levels in self._levels)

    @property
    def chooses(self) -> bool:
        """True if some decisions are choices among numbers, each of which may affect only some of the targets."""
        return self._ordinal is None and any(levels is not None for levels in self._levels)

    @property
    def budgeted(self) -> bool:
        """True if the space scales every candidate to its own budget, so that targets do not apply."""
        return self.problem.space.budgeted

    def full(self) -> Masks:
        """Return the masks that keep all channels and levels."""
        return [np.ones(domain.channels, dtype=bool) for domain in self.domains]

    def smallest(self) -> Masks:
        """Return the masks that keep the smallest legal number of channels, the most important ones.

        Decisions encoded as levels are those of the space's cheapest candidate, where the space sets limits of its own.
        """
        masks = [self.strongest(layer, int(counts[0])) for layer, counts in enumerate(self.counts)]
        cheapest = self.problem.space.cheapest() if self.capped else None
        if cheapest is not None:
            fewest = self.masks(cheapest)
            masks = [fewest[layer] if self.is_level(layer) else mask for layer, mask in enumerate(masks)]
        return masks

    def candidate(self, masks: Masks) -> Candidate:
        """Return the candidate of ``masks``."""
        values: dict[str, Value | KeepMask] = {}
        for name, levels, mask in zip(self.names, self._levels, masks, strict=True):
            values[name] = mask if levels is None else levels[int(mask.sum()) - 1]
        return Candidate(values)

    def masks(self, candidate: Candidate) -> Masks:
        """Return the masks of a candidate."""
        found = []
        for layer, (name, levels) in enumerate(zip(self.names, self._levels, strict=True)):
            if levels is None:
                found.append(candidate.mask(name).copy())
            else:
                found.append(self.strongest(layer, levels.index(candidate.values[name]) + 1))
        return found

    def in_order(self, masks: Masks) -> Masks:
        """Return ``masks`` with a prefix of the same length in each decision encoded as levels."""
        return [
            mask if self._levels[layer] is None else self.strongest(layer, int(mask.sum())) for layer, mask in enumerate(masks)
        ]

    def costs(self, masks: Masks) -> dict[str, float]:
        """Return the analytic costs of ``masks``, by metric."""
        return self.problem.space.costs(self.candidate(masks))

    def excess(self, masks: Masks) -> float:
        """Return by how much ``masks`` exceed the limits of the space itself, 0 for legal ones."""
        return self.problem.space.excess(self.candidate(masks)) if self.capped else 0.0

    def load(self, masks: Masks) -> float:
        """Return the share of the budget that ``masks`` use.

        With analytic targets, the largest cost / limit, at most 1 for feasible masks; without, the cost as a share of the
        dense network's (of the first analytic objective, else the first cost, else the number of channels).
        """
        return self.load_of(self.candidate(masks))

    def load_of(self, candidate: Candidate) -> float:
        """Return :meth:`load` of a candidate."""
        costs = self.problem.space.costs(candidate)
        if self.targets:
            return max(costs[target.metric] / target.limit for target in self.targets)
        if self._size_metric and not self.budgeted:
            return costs[self._size_metric] / self._dense_size
        return sum(int(mask.sum()) for mask in self.masks(candidate)) / self._channels

    def loads(self, masks: Masks) -> NDArray[np.float64]:
        """Return the share of each target's limit that ``masks`` use, shape ``(targets,)``; without targets :meth:`load`."""
        if not self.targets:
            return np.array([self.load(masks)])
        costs = self.costs(masks)
        return np.array([costs[target.metric] / target.limit for target in self.targets])

    def size(self, prefixes: bool = False) -> int:
        """Return the exact number of legal candidates.

        Args:
            prefixes: Whether to count only masks that keep the most important channels of each layer.
        """
        return math.prod(
            len(counts) if prefixes or levels is not None else sum(math.comb(domain.channels, int(kept)) for kept in counts)
            for domain, counts, levels in zip(self.domains, self.counts, self._levels, strict=True)
        )

    def enumerate(self, prefixes: bool = False) -> Iterator[Masks]:
        """Yield the masks of every legal candidate once; see :meth:`size` for their number and for ``prefixes``."""
        per_layer = [
            [self.strongest(layer, int(kept)) for kept in counts]
            if prefixes or self.is_level(layer)
            else _all_masks(domain.channels, counts)
            for layer, (domain, counts) in enumerate(zip(self.domains, self.counts, strict=True))
        ]
        for masks in itertools.product(*per_layer):
            yield list(masks)

    def strongest(self, layer: int, kept: int) -> NDArray[np.bool_]:
        """Return the mask that keeps the ``kept`` most important channels of a layer."""
        # Ranks are distinct, 1 / length apart.
        return self.ranks[layer] > 1.0 - kept / len(self.ranks[layer])

    def _importance_of(self, layer: int, table: Any) -> NDArray[np.float64]:
        name, levels = self.names[layer], self._levels[layer]
        if layer in self.wholes:
            table = self.problem.space.gains()
        elif levels is not None and self._ordinal is None:
            return self._levels_worth(name, levels)
        return importance_of(table, name, self.domains[layer])

    def _levels_worth(self, name: str, levels: Sequence[Value]) -> NDArray[np.float64]:
        """Return the worth of reaching each level of a choice among numbers, by the table of Omega where it has it."""
        omega = (self.problem.tables.get("omega") or {}).get(name)
        if omega is None:
            return np.linspace(1.0, 1.0 / len(levels), len(levels))
        falls = -np.diff([float(omega[level]) for level in levels])
        # The lowest level is always kept, and a level must not be worth more than the one below it.
        most = max(float(falls.max(initial=0.0)), 1e-12)
        falls = np.minimum.accumulate(np.maximum(np.concatenate([[most], falls]), 0.0))
        return falls + np.linspace(1e-3 * most, 0.0, len(falls))

    def _scores(self) -> Scores:
        scores = list(self.ranks)
        if self._ordinal is None and self.wholes:
            ranks = best_first_ranks(np.array([self.importance[layer][-1] for layer in self.wholes]))
            for layer, rank in zip(self.wholes, ranks, strict=True):
                scores[layer] = np.array([1.0, rank])
        choices = [
            layer
            for layer in range(len(self.names))
            if self.is_level(layer) and self._ordinal is None and layer not in self.wholes
        ]
        if not choices or "omega" not in self.problem.tables:
            return scores
        masks = [float(self.ranks[layer].sum()) for layer in range(len(self.names)) if not self.is_level(layer)]
        level = float(np.mean([self.importance[layer][1:].sum() for layer in choices]))
        scale = (float(np.mean(masks)) if masks else 1.0) / max(level, 1e-30)
        for layer in choices:
            scores[layer] = self.importance[layer] * scale
        return scores

    def _choose_size_metric(self, dense: Mapping[str, float]) -> str | None:
        wanted = [objective.metric for objective in self.problem.objectives if objective.direction == "minimize"]
        return next((metric for metric in (*wanted, *dense) if dense.get(metric, 0.0) > 0.0), None)

    def _check_targets_reachable(self) -> None:
        smallest = self.costs(self.smallest())
        for target in self.targets:
            if smallest[target.metric] > target.limit:
                raise UnreachableTargetError(
                    f"target {target.metric} <= {target.limit:g} cannot be met: the smallest candidate has "
                    f"{target.metric} = {smallest[target.metric]:g}; raise the target to at least that, raise the "
                    "space's max_ratio, or exclude fewer layers"
                )


def best_first_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of ``values`` in (0, 1), 1 the largest, shape as given; ties fall to the earlier one."""
    ranks = np.empty(len(values))
    ranks[best_first(values)] = 1.0 - (np.arange(len(values)) + 0.5) / len(values)
    return ranks


def _all_masks(length: int, counts: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    made = []
    for kept in counts:
        for chosen in itertools.combinations(range(length), int(kept)):
            mask = np.zeros(length, dtype=bool)
            mask[list(chosen)] = True
            made.append(mask)
    return made
