"""Draw random masks and scores, for random search and for the genetic search."""

from __future__ import annotations

from typing import Literal

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks, Scores
from search.algorithms.encoding.repair import fit_to_targets

Channels = Literal["importance", "random"]


def random_masks(encoding: ChannelEncoding, rng: np.random.Generator, channels: Channels, limit: float | None = None) -> Masks:
    """Draw a random share of every layer, and scale all shares together to a load just under the limit.

    Args:
        encoding: The problem's masks and costs.
        rng: Source of randomness.
        channels: Channels kept in a layer: the most important, or random ones.
        limit: Highest load; None for 1 with a target, and without one for a draw from (smallest load, 1).
    """
    if limit is None:
        limit = 1.0 if encoding.constrained else float(rng.uniform(encoding.load(encoding.smallest()), 1.0))
    scores: Scores = []
    for layer, ranks in enumerate(encoding.ranks):
        share = rng.uniform(0.1, 1.0)
        from_top = 1.0 - (ranks if channels == "importance" or encoding.is_level(layer) else rng.permutation(ranks))
        scores.append(share / from_top)
    return fit_to_targets(encoding, encoding.full(), scores, limit=limit)


def bernoulli(encoding: ChannelEncoding, rng: np.random.Generator, around: Masks, factor: float) -> Masks:
    """Draw every channel independently, with a probability that grows with its rank of importance (ours); not repaired.

    A layer keeps on average the share that it keeps in ``around``, times a random factor.

    Args:
        encoding: The problem's masks and costs.
        rng: Source of randomness.
        around: Masks that give the mean share of each layer.
        factor: Weight of importance in the probability, from 0 (none) to 1.
    """
    drawn = []
    for ranks, mask in zip(encoding.ranks, around, strict=True):
        share = min(1.0, float(mask.mean()) * rng.lognormal(0.0, 0.25))
        chance = share + factor * (2.0 * ranks - 1.0) * min(share, 1.0 - share)
        drawn.append(rng.random(len(ranks)) < chance)
    return drawn


def blurred_scores(encoding: ChannelEncoding, rng: np.random.Generator, factor: float) -> Scores:
    """Return ranks mixed with uniform noise, 1 for ranks alone and 0 for noise alone; scores of levels are not mixed."""
    return [
        encoding.scores[layer] if encoding.is_level(layer) else factor * ranks + (1.0 - factor) * rng.random(len(ranks))
        for layer, ranks in enumerate(encoding.ranks)
    ]
