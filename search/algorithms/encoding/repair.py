"""Repair masks: make them legal, bring them under the targets and use up the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks, Scores


def fit_to_targets(
    encoding: ChannelEncoding,
    masks: Masks,
    scores: Scores,
    *,
    limit: float | None,
    preference: Sequence[float] | NDArray[np.float64] | None = None,
    per_cost: bool = False,
    fill: bool = True,
) -> Masks:
    """Return ``masks`` with legal counts and, under ``limit``, with a load at or just below it.

    Kept channels are removed in ascending order of score, removed ones are restored in descending order, always by whole
    legal steps. Costs are computed about ``2 * layers + 25`` times, by bisection over the ordered steps, and must not fall
    when channels are added. With choices and several targets, the most exceeded target is met first, by steps that reduce
    its cost.

    Args:
        encoding: The problem's masks and costs.
        masks: Masks to start from, legal or not; left unchanged.
        scores: Score of each channel, one array of shape ``(channels,)`` per layer.
        limit: Highest load allowed (see :meth:`ChannelEncoding.load`); None only makes the counts legal.
        preference: Factor on the scores of each layer, shape ``(layers,)``.
        per_cost: Whether to order steps by score per saved load, so that expensive channels are removed first.
        fill: Whether to add channels until no layer can take another step under ``limit``.

    Returns:
        Legal masks; the smallest ones if even those exceed ``limit``.
    """
    ladder = _Ladder(encoding, encoding.in_order(masks), scores)
    ladder.legalize()
    if limit is None:
        return ladder.masks(ladder.counts)
    worth = np.ones(len(masks)) if preference is None else np.asarray(preference, dtype=np.float64)
    if encoding.chooses and len(encoding.targets) > 1:
        ladder.trim_each(worth, limit, per_cost)
    weights = worth / ladder.saving_per_channel() if per_cost else worth
    ladder.trim(weights, limit)
    ladder.shrink(limit)
    if fill:
        ladder.fill(weights, limit)
    return ladder.masks(ladder.counts)


class _Ladder:
    """Masks as a fixed order of the channels of each layer and a number of kept channels among its legal counts."""

    def __init__(self, encoding: ChannelEncoding, masks: Masks, scores: Scores) -> None:
        self.encoding = encoding
        self.orders = [np.lexsort((-score, ~mask)) for mask, score in zip(masks, scores, strict=True)]
        self.sorted_scores = [score[order] for score, order in zip(scores, self.orders, strict=True)]
        self.counts = np.array(
            [nearest_count(legal, int(mask.sum())) for legal, mask in zip(encoding.counts, masks, strict=True)], dtype=np.int64
        )

    def masks(self, counts: NDArray[np.int64]) -> Masks:
        made = []
        for order, count in zip(self.orders, counts, strict=True):
            mask = np.zeros(len(order), dtype=bool)
            mask[order[:count]] = True
            made.append(mask)
        return made

    def load(self, counts: NDArray[np.int64]) -> float:
        return self.encoding.load(self.masks(counts))

    def saving_per_channel(self) -> NDArray[np.float64]:
        """Return the load of one channel of each layer at the current counts, above 0, shape ``(layers,)``."""
        savings = self._savings(self.load)
        floor = max(float(savings.max(initial=0.0)) * 1e-3, 1e-12)
        return np.maximum(savings, floor)

    def _savings(self, load: Callable[[NDArray[np.int64]], float]) -> NDArray[np.float64]:
        here = load(self.counts)
        savings = np.zeros(len(self.counts))
        for layer, legal in enumerate(self.encoding.counts):
            position = int(np.searchsorted(legal, self.counts[layer]))
            other = legal[position - 1] if position > 0 else legal[min(1, len(legal) - 1)]
            if other != self.counts[layer]:
                moved = self._moved(layer, int(other))
                savings[layer] = abs(load(moved) - here) / abs(int(other) - int(self.counts[layer]))
        return savings

    def trim(self, weights: NDArray[np.float64], limit: float) -> None:
        """Take downward steps in ascending order of weighted score until the load is at most ``limit``."""
        if self.load(self.counts) <= limit:
            return
        self._step_down(self._legal(self._steps(weights, up=False)), self.load, limit)

    def legalize(self) -> None:
        """Take upward steps in descending order of score until the limits of the space itself hold."""
        left = self.encoding.excess(self.masks(self.counts))
        for layer, count in self._steps(np.ones(len(self.counts)), up=True) if left > 0.0 else ():
            moved = self._moved(layer, count)
            if (after := self.encoding.excess(self.masks(moved))) < left:
                self.counts, left = moved, after
            if left == 0.0:
                break

    def shrink(self, limit: float) -> None:
        """Take the smallest counts if the load exceeds ``limit`` though no step is left that the space's own limits allow."""
        if self.encoding.capped and self.load(self.counts) > limit:
            self.counts = np.array([int(mask.sum()) for mask in self.encoding.smallest()])

    def _legal(self, steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return downward steps without those that the space's own limits do not allow behind the others."""
        if not self.encoding.capped:
            return list(steps)
        counts, taken = self.counts.copy(), []
        for layer, count in steps:
            before, counts[layer] = counts[layer], count
            if self.encoding.excess(self.masks(counts)) > 0.0:
                counts[layer] = before
            else:
                taken.append((layer, count))
        return taken

    def trim_each(self, worth: NDArray[np.float64], limit: float, per_cost: bool) -> None:
        """Meet one target after the other, the most exceeded first, by downward steps that reduce its cost."""
        for _ in self.encoding.targets:
            loads = self.encoding.loads(self.masks(self.counts))
            worst = int(loads.argmax())
            if loads[worst] <= limit:
                return

            def load(counts: NDArray[np.int64], target: int = worst) -> float:
                return float(self.encoding.loads(self.masks(counts))[target])

            savings = self._savings(load)
            weights = worth / np.maximum(savings, 1e-12) if per_cost else worth
            down = [step for step in self._steps(weights, up=False) if savings[step[0]] > 0.0]
            self._step_down(self._legal(down), load, limit)

    def _step_down(self, steps: Sequence[tuple[int, int]], load: Callable[[NDArray[np.int64]], float], limit: float) -> None:
        """Take the shortest prefix of ``steps`` with a load of at most ``limit``; all steps if none has."""
        taken = _least(len(steps), lambda number: load(self._after(steps[:number])) <= limit)
        self.counts = self._after(steps[:taken])

    def fill(self, weights: NDArray[np.float64], limit: float) -> None:
        """Take upward steps in descending order of weighted score, then any others that fit, up to a load of ``limit``."""
        steps = self._steps(weights, up=True)
        if not steps or self.load(self.counts) > limit:
            return
        too_many = _least(len(steps), lambda number: self.load(self._after(steps[:number])) > limit)
        if too_many == len(steps) and self.load(self._after(steps)) <= limit:
            self.counts = self._after(steps)
            return
        self.counts = self._after(steps[: too_many - 1])
        # A step that does not fit now does not fit after others have grown: one visit per layer suffices.
        for layer in dict.fromkeys(layer for layer, _ in steps[too_many - 1 :]):
            legal = self.encoding.counts[layer]
            higher = legal[legal > self.counts[layer]]
            for count in higher:
                moved = self._moved(layer, int(count))
                if self.load(moved) > limit:
                    break
                self.counts = moved

    def _moved(self, layer: int, count: int) -> NDArray[np.int64]:
        moved = self.counts.copy()
        moved[layer] = count
        return moved

    def _after(self, steps: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        counts = self.counts.copy()
        for layer, count in steps:
            counts[layer] = count
        return counts

    def _steps(self, weights: NDArray[np.float64], up: bool) -> list[tuple[int, int]]:
        """Return (layer, count after the step) of every step, in the order of taking; within a layer by count."""
        values, layers, ends = [], [], []
        for layer, legal in enumerate(self.encoding.counts):
            here = int(np.searchsorted(legal, self.counts[layer]))
            path = legal[here:] if up else legal[: here + 1][::-1]
            totals = np.concatenate([[0.0], np.cumsum(self.sorted_scores[layer])])[path]
            # Downward the difference is negative, so that one sort gives falling means upward and rising means downward.
            means = np.diff(totals) / np.abs(np.diff(path))
            values.append(-means * weights[layer])
            layers.append(np.full(len(path) - 1, layer))
            ends.append(path[1:])
        order = np.argsort(np.concatenate(values), kind="stable")
        return list(zip(np.concatenate(layers)[order].tolist(), np.concatenate(ends)[order].tolist(), strict=True))


def nearest_count(legal: NDArray[np.int64], count: int) -> int:
    """Return the legal count nearest to ``count``; of two, the larger."""
    return int(legal[::-1][np.argmin(np.abs(legal[::-1] - count))])


def _least(upper: int, holds: Callable[[int], bool]) -> int:
    """Return the least number in 1..upper for which the monotone ``holds`` is true, ``upper`` where it never is."""
    low, high = 0, max(upper, 0)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
