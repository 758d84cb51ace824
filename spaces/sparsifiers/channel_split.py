"""Split of a network's channels into important and redundant ones, by importance and compression ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from spaces.budget import share_budget
from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.errors import UnsupportedModelError
from spaces.patterns import require_matches, value_of

Scope = Literal["layer", "global"]


class ChannelSplit:
    """Chooses the redundant channels of a network for any importance scores.

    Args:
        cost: What keep-masks of the network cost.
        groups: Its channel groups.
        ratio: Share of the channels that is redundant, where ``macs`` is None.
        ratios: Ratios of single groups, by the pattern of their name; the first that matches counts. Within layers only.
            With ``macs`` they say how groups share it: the kept share is proportional to 1 - ratio, 0 where none matches.
        macs: Share of the network's MACs that the important channels may have, or None.
        scope: ``layer`` ranks within every group, ``global`` over the whole network, on scores over their group's mean.
        max_ratio: Largest share of a group's channels that may be redundant.
        round_to: Important channels of a group come in multiples of this, or are all of them.
        relative: False to rank scores over the network as they are.

    Raises:
        UnsupportedModelError: The share of MACs is out of reach, or a pattern of ``ratios`` matches no layer with channels.
    """

    def __init__(
        self,
        cost: ChannelCost,
        groups: ChannelGroups,
        ratio: float,
        ratios: Mapping[str, float],
        macs: float | None,
        scope: Scope,
        max_ratio: float,
        round_to: int = 1,
        relative: bool = True,
    ) -> None:
        require_matches(ratios, groups.names, "layer with channels")
        self._groups = groups
        self._ratio, self._macs, self._scope, self._relative = ratio, macs, scope, relative
        self._step = np.asarray([group.multiple(round_to) for group in groups.groups], dtype=np.int64)
        self._sizes = np.asarray([group.size for group in groups.groups])
        self._most = removable(self._sizes, np.full(len(self._sizes), max_ratio), self._step)
        self.asked: np.ndarray | None = None
        """Share of every group's channels asked for, of shape ``(groups,)``; None where only the whole network has a share."""
        self._cost = cost
        self._whole = cost.of(np.ones(groups.width, dtype=bool))["macs"]
        if macs is not None:
            lowest = self._share(self._most)
            if lowest > macs:
                raise UnsupportedModelError(
                    f"macs {macs:.3g} is out of reach: with a share of {max_ratio:g} of every open group removed, {lowest:.3g} "
                    "of the MACs are left; raise macs or max_ratio, or exclude less"
                )
            shares = 1.0 - np.asarray([value_of(group.name, ratios, 0.0) for group in groups.groups])
            self._aims = self._sharing(macs, shares)
            self.asked = self._aims / self._sizes if scope == "layer" else None
        else:
            own = np.asarray([value_of(group.name, ratios, ratio) for group in groups.groups])
            self._aims = removable(self._sizes, np.minimum(own, max_ratio), self._step)
            self.asked = own if scope == "layer" else None

    def redundant(self, scores: np.ndarray, level: float = 1.0) -> np.ndarray:
        """Return the redundant channels as a boolean array of shape ``(width,)``.

        Args:
            scores: Importance of every channel, of shape ``(width,)``.
            level: Share of the way to the compression asked for, from 0 to 1.
        """
        if self._scope == "layer":
            # On the way there any number will do: multiples count where channels leave.
            return self._lowest(scores, np.floor(level * self._aims + 1e-9).astype(np.int64))
        # What must stay in its group comes last, and is never reached.
        order = self._global_order(scores)
        if self._macs is None:
            return self._first(scores, order, math.floor(level * self._ratio * self._groups.width + 1e-9))
        limit = 1.0 - level * (1.0 - self._macs)
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self._cost.of(~self._first(scores, order, middle))["macs"] / self._whole <= limit + 1e-12:
                high = middle
            else:
                low = middle + 1
        return self._first(scores, order, low)

    def _first(self, scores: np.ndarray, order: np.ndarray, number: int) -> np.ndarray:
        """Return the first of ``order``, of every group so few that what is left is a multiple."""
        owners = np.repeat(np.arange(len(self._sizes)), self._sizes)
        gone = np.bincount(owners[order[:number]], minlength=len(self._sizes))
        return self._lowest(scores, self._sizes - _raised(self._sizes, self._sizes - gone, self._step))

    def _global_order(self, scores: np.ndarray) -> np.ndarray:
        """Return the channels that may go, the least important first."""
        relative = np.empty_like(scores)
        for group in self._groups.groups:
            block = slice(group.offset, group.offset + group.size)
            relative[block] = scores[block] / (max(float(scores[block].mean()), 1e-300) if self._relative else 1.0)
        removable = self._lowest(scores, self._most)
        order = np.argsort(relative, kind="stable")
        return np.asarray(order[removable[order]])

    def _lowest(self, scores: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        chosen = np.zeros(self._groups.width, dtype=bool)
        for group, number in zip(self._groups.groups, numbers.tolist(), strict=True):
            order = np.argsort(scores[group.offset : group.offset + group.size], kind="stable")
            chosen[group.offset + order[:number]] = True
        return chosen

    def _share(self, numbers: np.ndarray) -> float:
        """Return the share of the MACs that is left without so many channels of every group."""
        return self._cost.of(~self._lowest(np.zeros(self._groups.width), numbers))["macs"] / self._whole

    def _sharing(self, macs: float, shares: np.ndarray) -> np.ndarray:
        """Return how many channels of every group go, so that at most ``macs`` are left.

        Kept are so many of every group as ``shares`` say, all times the largest factor that keeps to ``macs``; of what whole
        channels leave of it, those groups get one more that were closest to it.
        """
        sizes = self._sizes
        wanted = shares * sizes
        kept = share_budget(
            lambda factor: self._kept(factor * wanted),
            float((1.0 / shares).max()),
            lambda amounts: self._share(sizes - amounts),
            macs,
            lambda amounts, factor: amounts - factor * wanted,
            sizes,
            self._step,
        )
        return np.asarray(sizes - kept)

    def _kept(self, wanted: np.ndarray) -> np.ndarray:
        """Return the legal numbers of channels that are at most ``wanted``, or else the smallest ones."""
        floors = np.floor(wanted + 1e-9).astype(np.int64) // self._step * self._step
        return np.where(wanted + 1e-9 >= self._sizes, self._sizes, np.clip(floors, self._sizes - self._most, self._sizes))


def shares_of(groups: ChannelGroups, gone: np.ndarray, asked: np.ndarray | None) -> list[dict[str, Any]]:
    """Return, for the report, the share of every group's channels asked for and the share that is gone.

    Args:
        groups: The groups.
        gone: True for every channel that is gone, of shape ``(groups.width,)``.
        asked: Shares asked for, of shape ``(groups,)``; None where only the whole network has one.
    """
    return [
        {
            "name": group.name,
            "channels": group.size,
            "asked": None if asked is None else float(asked[place]),
            "reached": float(gone[group.offset : group.offset + group.size].mean()),
        }
        for place, group in enumerate(groups.groups)
    ]


def removable(sizes: np.ndarray, ratios: np.ndarray, round_to: int | np.ndarray) -> np.ndarray:
    """Return the numbers of channels to remove at these ratios: at least one stays, and a multiple or all of them."""
    kept = sizes - np.minimum(np.floor(ratios * sizes + 1e-9).astype(np.int64), sizes - 1)
    return np.asarray(sizes - _raised(sizes, kept, round_to))


def _raised(sizes: np.ndarray, kept: np.ndarray, round_to: int | np.ndarray) -> np.ndarray:
    """Return the smallest legal numbers of channels to keep that are at least ``kept``."""
    return np.asarray(np.minimum(sizes, -(-kept // round_to) * round_to))
