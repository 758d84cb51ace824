"""Allocation: pruning ratio of every layer, from a few numbers and a target for the whole network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from spaces.budget import share_budget
from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.errors import UnsupportedModelError
from spaces.patterns import require_matches, value_of
from spaces.sparsifiers.participation import number_to_prune


@dataclass(frozen=True)
class RatioProfile:
    """Unevenness of the pruning ratios over the layers; all 0 prunes the same share of each.

    A layer keeps the share ``c exp(depth d + width w + cost m)``, with ``c`` from the target, and ``d``, ``w``, ``m`` its
    place in the network, its number of channels and its share of the MACs (these two as logarithms), each scaled to
    -1 .. 1 (ours).

    Attributes:
        depth: Above 0 keeps more of later layers.
        width: Above 0 keeps more of wide layers.
        cost: Above 0 keeps more of layers with many MACs.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    depth: float = 0.0
    width: float = 0.0
    cost: float = 0.0


class RatioAllocation:
    """The numbers of channels to prune of every group of one network, and what the network costs then.

    Args:
        model: The network.
        groups: Its channel groups.
        max_ratio: Largest share of a group's channels that may go.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups, max_ratio: float) -> None:
        self._groups = groups
        self._cost = ChannelCost(model, groups)
        self._sizes = [group.size for group in groups.groups]
        self._most = np.asarray([min(math.floor(max_ratio * size + 1e-9), size - 1) for size in self._sizes])
        places = np.linspace(-1.0, 1.0, len(self._sizes)) if len(self._sizes) > 1 else np.zeros(len(self._sizes))
        shares = np.asarray([max(group.macs_share, 1e-6) for group in groups.groups])
        self._features = np.stack([places, _scaled(np.log(self._sizes)), _scaled(np.log(shares))])
        self._dense = self.costs(np.zeros(len(self._sizes), dtype=np.int64))["macs"]

    def costs(self, numbers: np.ndarray) -> dict[str, float]:
        """Return the costs of the network without so many channels of every group."""
        return self._cost.of(self.mask(numbers))

    def mask(self, numbers: np.ndarray) -> np.ndarray:
        """Return a whole keep-mask without the first so many channels of every group, boolean."""
        mask = np.ones(self._groups.width, dtype=bool)
        for group, number in zip(self._groups.groups, numbers.tolist(), strict=True):
            mask[group.offset : group.offset + number] = False
        return mask

    def of_ratios(self, ratios: Mapping[str, float], fallback: float) -> np.ndarray:
        """Return the numbers for ratios by the pattern of a group's name, the first that matches, or ``fallback``.

        Raises:
            UnsupportedModelError: A pattern matches no layer with channels.
        """
        require_matches(ratios, self._groups.names, "layer with channels")
        own = [value_of(group.name, ratios, fallback) for group in self._groups.groups]
        return np.asarray([number_to_prune(size, ratio) for size, ratio in zip(self._sizes, own, strict=True)], dtype=np.int64)

    def of_target(self, macs: float, shape: RatioProfile) -> np.ndarray:
        """Return the numbers of an uneven allocation that leaves at most a share of ``macs``, and nearly uses it up.

        Raises:
            UnsupportedModelError: The share of MACs is out of reach.
        """
        lowest = self._share(self._most)
        if lowest > macs:
            raise UnsupportedModelError(
                f"{macs:.3g} of the MACs are out of reach: with the largest ratio of every open group pruned, {lowest:.3g} are "
                "left; raise the target or max_ratio, or exclude less"
            )
        weights: np.ndarray = np.exp(np.asarray([shape.depth, shape.width, shape.cost]) @ self._features)
        sizes = np.asarray(self._sizes)
        kept = share_budget(
            lambda factor: sizes - self._numbers(factor * weights),
            float((1.0 / weights).max()),
            lambda amounts: self._share(sizes - amounts),
            macs,
            lambda amounts, _: amounts / sizes / weights,
            sizes,
        )
        return np.asarray(sizes - kept)

    def _numbers(self, keep: np.ndarray) -> np.ndarray:
        sized = zip(self._sizes, keep.tolist(), strict=True)
        numbers = [number_to_prune(size, min(1.0, max(0.0, 1.0 - share))) for size, share in sized]
        limited: np.ndarray = np.minimum(np.asarray(numbers, dtype=np.int64), self._most)
        return limited

    def _share(self, numbers: np.ndarray) -> float:
        return self.costs(numbers)["macs"] / self._dense


def require_ratios(ratio: float, ratios: Mapping[str, float], macs: float | None, max_ratio: float) -> None:
    """Raise ValueError, naming both numbers, for a ratio above ``max_ratio``; with ``macs`` ratios are no such shares."""
    for name, one in () if macs is not None else (("ratio", ratio), *((f"ratios.{name}", own) for name, own in ratios.items())):
        if one > max_ratio:
            raise ValueError(f"{name}: {one:g} is above max_ratio, {max_ratio:g}; raise max_ratio, or lower the ratio")


def _scaled(values: np.ndarray) -> np.ndarray:
    spread = float(values.max() - values.min())
    scaled: np.ndarray = 2.0 * (values - values.min()) / spread - 1.0 if spread > 1e-12 else np.zeros(len(values))
    return scaled
