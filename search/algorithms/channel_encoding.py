"""Channel masks as arrays: the common ground of every algorithm that searches keep-masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.problem import Problem
from spaces.candidate import Candidate
from spaces.domains import Mask
from spaces.errors import SecateursError
from spaces.levels import Leveled

Masks = list[NDArray[np.bool_]]
"""One boolean array of shape ``(channels,)`` per layer, in the order of the space's domains."""
Scores = list[NDArray[np.float64]]
"""One value per channel, in the layout of :data:`Masks`; a higher one is kept longer."""

_DIGITS = bytes.maketrans(b"\x00\x01", b"01")


class NotAChannelSpaceError(SecateursError):
    """An algorithm for keep-masks was given a space that decides something else."""


class UnreachableTargetError(SecateursError):
    """Even the smallest candidate of the space exceeds a target."""


class ChannelEncoding:
    """Keep-masks of one problem as arrays, with their importance and their analytic costs.

    Attributes:
        names: Decision names, in graph order.
        domains: Their domains, all of type ``Mask``.
        counts: Per layer, every number of channels that may be kept, ascending.
        importance: Per layer, the importance of every channel, shape ``(channels,)``, as the tables give it.
        ranks: Per layer, importance as a rank in (0, 1), 1 the most important; ties fall to the earlier channel.
        constrained: Whether a target can be computed without building the network.
    """

    def __init__(self, problem: Problem) -> None:
        """Read the space's domains and the tables' importance.

        Raises:
            NotAChannelSpaceError: A domain is not a ``Mask``.
            SecateursError: Importance is missing or does not fit a domain.
            UnreachableTargetError: The smallest candidate exceeds a target.
        """
        self.problem = problem
        space = problem.space
        self._leveled = space if isinstance(space, Leveled) else None
        self.names = list(space.domains)
        if self._leveled is not None:
            self.domains = [Mask(len(self._leveled.levels[name])) for name in self.names]
            importance: Any = self._leveled.gains()
        else:
            self.domains = [_mask_domain(name, domain) for name, domain in space.domains.items()]
            importance = problem.tables.get("importance")
        self.counts = [np.array(domain.legal_counts()) for domain in self.domains]
        named = zip(self.names, self.domains, strict=True)
        self.importance = [_importance_of(importance, name, domain) for name, domain in named]
        self.ranks = [ranks_of(values) for values in self.importance]
        dense = self.costs(self.full())
        self._targets = [target for target in problem.targets if target.metric in dense and not self.budgeted]
        self.constrained = bool(self._targets)
        self._size_metric = self._choose_size_metric(dense)
        self._dense_size = dense[self._size_metric] if self._size_metric else 1.0
        self._channels = sum(domain.length for domain in self.domains)
        self._check_targets_reachable()

    @property
    def prefixes(self) -> bool:
        """Whether only how many are kept of a layer counts, since its decision has levels."""
        return self._leveled is not None

    @property
    def budgeted(self) -> bool:
        """Whether the space brings every candidate to its own budget."""
        return self._leveled is not None and self._leveled.budgeted

    def full(self) -> Masks:
        """Return the masks that keep everything."""
        return [np.ones(domain.length, dtype=bool) for domain in self.domains]

    def smallest(self) -> Masks:
        """Return the masks that keep the fewest, most important, channels."""
        return [self.strongest(layer, int(counts[0])) for layer, counts in enumerate(self.counts)]

    def candidate(self, masks: Masks) -> Candidate:
        if self._leveled is not None:
            levels = self._leveled.levels
            return Candidate({n: levels[n][int(mask.sum()) - 1] for n, mask in zip(self.names, masks, strict=True)})
        return Candidate({name: to_text(mask) for name, mask in zip(self.names, masks, strict=True)})

    def masks(self, candidate: Candidate) -> Masks:
        if self._leveled is not None:
            reached = [list(self._leveled.levels[name]).index(candidate.values[name]) + 1 for name in self.names]
            return [self.strongest(layer, kept) for layer, kept in enumerate(reached)]
        return [np.frombuffer(str(candidate.values[name]).encode(), dtype=np.uint8) == ord("1") for name in self.names]

    def costs(self, masks: Masks) -> dict[str, float]:
        return self.problem.space.costs(self.candidate(masks))

    def load(self, masks: Masks) -> float:
        """Return how much of the budget ``masks`` use up.

        With analytic targets, the largest cost / limit (feasible up to 1); without, the share of the dense network's
        cost (the first analytic objective, else the first cost, else the number of channels).
        """
        return self.load_of(self.candidate(masks))

    def load_of(self, candidate: Candidate) -> float:
        """Return :meth:`load` of a candidate."""
        costs = self.problem.space.costs(candidate)
        if self._targets:
            return max(costs[target.metric] / target.limit for target in self._targets)
        if self._size_metric and not self.budgeted:
            return costs[self._size_metric] / self._dense_size
        return sum(int(mask.sum()) for mask in self.masks(candidate)) / self._channels

    def size(self, prefixes: bool = False) -> int:
        """Return the number of legal candidates, exactly.

        With ``prefixes`` only those count that keep a layer's most important channels.
        """
        if prefixes or self.prefixes:
            return math.prod(len(counts) for counts in self.counts)
        return math.prod(
            sum(math.comb(domain.length, int(kept)) for kept in counts)
            for domain, counts in zip(self.domains, self.counts, strict=True)
        )

    def enumerate(self, prefixes: bool = False) -> Iterator[Masks]:
        """Yield every legal candidate once; only for spaces of modest :meth:`size`."""
        per_layer = [
            [self.strongest(layer, int(kept)) for kept in counts] if prefixes else _all_masks(domain.length, counts)
            for layer, (domain, counts) in enumerate(zip(self.domains, self.counts, strict=True))
        ]
        for masks in itertools.product(*per_layer):
            yield list(masks)

    def strongest(self, layer: int, kept: int) -> NDArray[np.bool_]:
        """Return the mask that keeps the ``kept`` most important channels of a layer."""
        # Ranks are distinct, 1 / length apart.
        return self.ranks[layer] > 1.0 - kept / len(self.ranks[layer])

    def _choose_size_metric(self, dense: Mapping[str, float]) -> str | None:
        wanted = [objective.metric for objective in self.problem.objectives if objective.direction == "minimize"]
        return next((metric for metric in (*wanted, *dense) if dense.get(metric, 0.0) > 0.0), None)

    def _check_targets_reachable(self) -> None:
        smallest = self.costs(self.smallest())
        for target in self._targets:
            if smallest[target.metric] > target.limit:
                raise UnreachableTargetError(
                    f"target {target.metric} <= {target.limit:g} cannot be met: the smallest candidate has "
                    f"{target.metric} = {smallest[target.metric]:g}; raise the target to at least that, raise the "
                    "space's max_ratio, or exclude fewer layers"
                )


def to_text(mask: NDArray[np.bool_]) -> str:
    """Return a mask as a string of ``"0"`` and ``"1"``."""
    return mask.tobytes().translate(_DIGITS).decode()


def _importance_of(table: Any, name: str, domain: Mask) -> NDArray[np.float64]:
    if not isinstance(table, Mapping) or name not in table:
        raise SecateursError(
            f"expected tables['importance'][{name!r}], one value per channel, and found none; "
            "the search stage computes it: pass its tables to the algorithm"
        )
    values = np.asarray(table[name], dtype=np.float64)
    if values.shape != (domain.length,) or not np.isfinite(values).all():
        wrong = int(values.size - np.isfinite(values).sum())
        raise SecateursError(
            f"importance of {name!r}: expected {domain.length} finite values, got shape {values.shape} with {wrong} "
            "that are not finite; check the criterion and the weights"
        )
    return values


def _mask_domain(name: str, domain: object) -> Mask:
    if not isinstance(domain, Mask):
        raise NotAChannelSpaceError(
            f"expected a space whose decisions are all keep-masks, but {name!r} is of type {type(domain).__name__}; "
            "use the space channel_mask, or an algorithm that handles this kind of decision"
        )
    return domain


def ranks_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of ``values`` in (0, 1), 1 the largest, shape as given; ties fall to the earlier one."""
    ranks = np.empty(len(values))
    ranks[np.argsort(-values, kind="stable")] = 1.0 - (np.arange(len(values)) + 0.5) / len(values)
    return ranks


def _all_masks(length: int, counts: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    made = []
    for kept in counts:
        for chosen in itertools.combinations(range(length), int(kept)):
            mask = np.zeros(length, dtype=bool)
            mask[list(chosen)] = True
            made.append(mask)
    return made
