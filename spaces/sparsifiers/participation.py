"""Participation probabilities: chance of every group to take part in a step, lowered to 0 or raised to 1 over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spaces.sparsifiers.penalty_function import PenaltyFunction

Ranks = Literal["survivors", "all"]

NEXT_TO_ZERO = 1e-30
"""Probability of a group at p = 0 that may come back: out of every step, but not zeroed."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SNAPSHOTS = 64
_MOST_UPDATES = 100_000


@dataclass(frozen=True)
class PrunedLayer:
    """The groups of one layer, or of several coupled ones.

    Attributes:
        name: The first layer's name.
        offset: Position of its first group among all groups.
        size: Number of groups.
        number: How many of them are to be pruned, below ``size``.
    """

    name: str
    offset: int
    size: int
    number: int


def number_to_prune(size: int, ratio: float) -> int:
    """Return the number of ``size`` groups that a ratio prunes: rounded up, and at least one stays."""
    return min(math.ceil(ratio * size - 1e-9), size - 1)


def lower(p: np.ndarray, ranks: np.ndarray, number: int, penalty: PenaltyFunction) -> np.ndarray:
    """Return the probabilities of a layer's surviving groups after an update, given their ranks."""
    lowered: np.ndarray = np.clip(p - penalty(ranks, number), 0.0, 1.0)
    lowered[lowered < 1e-9] = 0.0
    return lowered


def updates_needed(size: int, number: int, penalty: PenaltyFunction, ranks: Ranks = "survivors") -> int:
    """Return the number of updates until ``number`` of ``size`` groups are pruned, if ranks do not change."""
    if ranks == "all":
        # Every group falls by the same amount at every update; the last one to go by the least.
        slowest = float(penalty(np.asarray([number - 1]), number)[0]) if number > 0 else 1.0
        return min(_MOST_UPDATES, math.ceil((1.0 - 1e-9) / slowest)) if number > 0 else 0
    p, updates = np.ones(size), 0
    while number > 0 and updates < _MOST_UPDATES:
        p = lower(p, np.arange(len(p)), number, penalty)
        number -= int((p == 0.0).sum())
        p = p[p > 0.0]
        updates += 1
    return updates


class Participation:
    """The probabilities of all groups of a network, and the ranks that lower them.

    Importance is ranked, ranks are averaged over the updates, and the order of the averages is the rank that the penalty
    function sees. Among ``survivors``, the penalty function is asked about what is still to be pruned, and a group at p = 0 is
    gone: so the author's code, of which the patent's claim says nothing. Over ``all`` groups of a layer it is asked about
    all that are to be pruned, as the patent's wording has it; the last groups then take very long.

    Args:
        layers: All layers, in the order of their groups.
        penalty: The penalty function.
        ranks: Groups that are ranked.
        final: Whether p = 0 is for good; if not, a group comes back while its layer has not reached its number (``all`` only).
    """

    def __init__(
        self, layers: Sequence[PrunedLayer], penalty: PenaltyFunction, ranks: Ranks = "survivors", final: bool = True
    ) -> None:
        self.layers = tuple(layers)
        self._penalty, self._over_all, self._final = penalty, ranks == "all", final
        self.forced = 0
        """Number of groups that :meth:`finish` pruned, since the updates had not."""
        width = sum(layer.size for layer in layers)
        self.p = np.ones(width)
        self._ranks = np.zeros(width)
        self._updates = 0
        self._stride = 1
        self._history: list[tuple[int, np.ndarray]] = [(0, self._quantiles())]

    @property
    def done(self) -> bool:
        """True once every layer has lost the number of groups asked for."""
        return all(self._left(layer) == 0 for layer in self.layers)

    def update(self, scores: np.ndarray, step: int) -> None:
        """Lower and raise the probabilities by the importance ``scores`` of all groups, at a step of the training."""
        for layer in self.layers:
            left = self._left(layer)
            if left == 0:
                continue
            if self._over_all:
                self._update_all(layer, scores)
            else:
                alive = self._alive(layer)
                self._ranks[alive] += ascending_ranks(scores[alive])
                self.p[alive] = lower(self.p[alive], ascending_ranks(self._ranks[alive]), left, self._penalty)
            if self._left(layer) == 0:
                # What is left of a finished layer takes part for good.
                self.p[self._alive(layer)] = 1.0
        self._updates += 1
        self._remember(step)

    def _update_all(self, layer: PrunedLayer, scores: np.ndarray) -> None:
        """Update the probabilities of all groups of a layer; no more than are to be pruned go, the ones of lowest rank."""
        block = slice(layer.offset, layer.offset + layer.size)
        before = self.p[block].copy()
        self._ranks[block] += ascending_ranks(scores[block])
        order = ascending_ranks(self._ranks[block])
        p = lower(before, order, layer.number, self._penalty)
        if self._final:
            p[before == 0.0] = 0.0
        zeros = np.flatnonzero(p == 0.0)
        if len(zeros) > layer.number:
            # Ranks may move between updates, so that more groups meet at 0 than are to go.
            keys = np.where(before[zeros] == 0.0, -1.0, order[zeros]) if self._final else order[zeros]
            spared = zeros[np.argsort(keys, kind="stable")[layer.number :]]
            p[spared] = np.maximum(before[spared], 1e-9)
        self.p[block] = p

    @property
    def drawn(self) -> np.ndarray:
        """Probabilities to draw masks from, 0 only for groups that are gone; next to 0 for those that may come back."""
        if self._final:
            return self.p
        coming_back = self.p == 0.0
        for layer in self.layers:
            if self._left(layer) == 0:
                coming_back[layer.offset : layer.offset + layer.size] = False
        return np.where(coming_back, NEXT_TO_ZERO, self.p)

    def finish(self, step: int) -> None:
        """Prune what is missing: the groups of lowest probability, of these the ones of lowest average rank."""
        if self.done:
            return
        for layer in self.layers:
            left = self._left(layer)
            if left > 0:
                alive = self._alive(layer)
                order = np.lexsort((self._ranks[alive], self.p[alive]))
                self.p[alive[order[:left]]] = 0.0
                self.forced += left
                self.p[self._alive(layer)] = 1.0
        self._history.append((step, self._quantiles()))

    def record(self) -> dict[str, object]:
        """Return the distribution of the probabilities over time, as plain data.

        ``layers`` are names, ``quantiles`` the shares, ``steps`` the steps of the training, and ``values`` the probabilities
        per step, layer and quantile.
        """
        pruned = [place for place, layer in enumerate(self.layers) if layer.number]
        return {
            "layers": [self.layers[place].name for place in pruned],
            "quantiles": list(QUANTILES),
            "steps": [step for step, _ in self._history],
            "values": [[[round(float(q), 4) for q in values[place]] for place in pruned] for _, values in self._history],
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return probabilities, ranks, counters and history, for :meth:`load_state_dict`."""
        return {
            "p": torch.from_numpy(self.p.copy()),
            "ranks": torch.from_numpy(self._ranks.copy()),
            "updates": torch.tensor([self._updates, self._stride]),
            "history_steps": torch.tensor([step for step, _ in self._history]),
            "history": torch.from_numpy(np.stack([values for _, values in self._history])),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`."""
        self.p = state["p"].cpu().numpy().copy()
        self._ranks = state["ranks"].cpu().numpy().copy()
        self._updates, self._stride = (int(value) for value in state["updates"])
        history = state["history"].cpu().numpy()
        self._history = [(int(step), values.copy()) for step, values in zip(state["history_steps"], history, strict=True)]

    def _alive(self, layer: PrunedLayer) -> np.ndarray:
        return layer.offset + np.flatnonzero(self.p[layer.offset : layer.offset + layer.size] > 0.0)

    def _left(self, layer: PrunedLayer) -> int:
        gone = int((self.p[layer.offset : layer.offset + layer.size] == 0.0).sum())
        return layer.number - gone

    def _quantiles(self) -> np.ndarray:
        blocks = [np.sort(self.p[layer.offset : layer.offset + layer.size]) for layer in self.layers]
        shares = np.asarray(QUANTILES)
        return np.stack([block[np.rint(shares * (len(block) - 1)).astype(int)] for block in blocks])

    def _remember(self, step: int) -> None:
        """Keep the distribution, of ever fewer updates the more there are."""
        if self._updates % self._stride and not self.done:
            return
        self._history.append((step, self._quantiles()))
        if len(self._history) > _SNAPSHOTS:
            self._history = self._history[::2]
            self._stride *= 2


def ascending_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ascending rank of every value, from 0; ties fall to the earlier one."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
