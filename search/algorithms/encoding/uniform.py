"""Greedy masks by importance: baselines, and starting points of the genetic search."""

from __future__ import annotations

import numpy as np

from search.algorithms.encoding.channel_encoding import (
    ChannelEncoding,
    Masks,
    Scores,
    UnreachableTargetError,
    best_first_ranks,
)
from search.algorithms.encoding.level_allocation import LevelAllocation, uniform_allocation
from search.algorithms.encoding.repair import fit_to_targets
from search.study.problem import Problem
from spaces.candidate import Candidate
from spaces.errors import SecateursError


def uniform(problem: Problem) -> Candidate:
    """Return the candidate that keeps the same share of every layer, the most important channels first.

    The share is the largest that keeps the targets; the rest of the budget is filled, so that the baseline costs as much as
    the result of a search. If the decisions are numbers, such as bits, all layers get the same number.

    Parts that could leave whole stay, as long as the targets can be kept with them.

    Raises:
        UnreachableTargetError: Even the smallest candidate exceeds a target.
        SecateursError: No target can be computed from the space's costs.
    """
    whole = {part.name: 1 for part in problem.space.removable}
    if LevelAllocation.fits(problem, whole):
        try:
            return uniform_allocation(problem, whole)
        except UnreachableTargetError:
            if not whole:
                raise
    return _baseline(problem, globally=0.0)


def global_magnitude(problem: Problem) -> Candidate:
    """Return the candidate that keeps the channels above one threshold on importance / mean importance of the layer.

    The threshold is the lowest that keeps the targets, and the budget is filled, as in :func:`uniform`. The division by the
    mean of the layer is the default of pruning libraries for a global threshold.

    Raises:
        UnreachableTargetError: Even the smallest candidate exceeds a target.
        SecateursError: No target can be computed from the space's costs.
    """
    return _baseline(problem, globally=1.0)


def branches_alone(problem: Problem, share: float = 1.0) -> Candidate | None:
    """Return a candidate without the least influential parts, which keeps the targets; None where these can't do that.

    Args:
        problem: A problem over parts that leave whole, and over other decisions.
        share: Share of the parts that would have to go alone; for what is missing all other decisions are cut uniformly.
    """
    encoding = ChannelEncoding(problem)
    apart = len(encoding.wholes) < len(encoding.names)
    if not encoding.wholes or not apart or not encoding.constrained:
        return None
    scores = _scores(encoding, globally=0.0)
    first = [values - 2.0 if layer in encoding.wholes else values for layer, values in enumerate(scores)]
    found = fit_to_targets(encoding, encoding.full(), first, limit=1.0, fill=False)
    gone = [layer for layer in encoding.wholes if not found[layer].all()]
    order = sorted(gone, key=lambda layer: float(scores[layer][-1]))
    for layer in order[round(share * len(order)) :]:
        found[layer] = encoding.strongest(layer, 2)
    fewer = [mask if layer in encoding.wholes else np.ones_like(mask) for layer, mask in enumerate(found)]
    return encoding.candidate(fit_to_targets(encoding, fewer, scores, limit=1.0)) if order else None


def greedy(encoding: ChannelEncoding, globally: float, limit: float) -> Masks:
    """Return the greedy masks of a load just under ``limit``.

    Args:
        encoding: The problem's masks and costs.
        globally: Weight of the rank over the whole network (1: a global threshold) against the rank within the layer (0: a
            uniform ratio).
        limit: Highest load, see :meth:`ChannelEncoding.load`.
    """
    return fit_to_targets(encoding, encoding.full(), _scores(encoding, globally), limit=limit)


def _baseline(problem: Problem, globally: float) -> Candidate:
    encoding = ChannelEncoding(problem)
    if not encoding.constrained and not encoding.budgeted:
        names = [target.metric for target in problem.targets]
        remedy = "set search.target to a cost of the space, such as macs"
        if "latency_ms" in names:
            remedy = "measure latency by {latency: {mode: table}}, which knows it beforehand, or give a limit on macs beside it"
        raise SecateursError(
            "a baseline needs a target to be compared at, of which a candidate's cost is known before it is built: got targets "
            f"on {', '.join(names) or 'nothing'}; {remedy}, or leave search.baselines out"
        )
    return encoding.candidate(greedy(encoding, globally, limit=1.0))


def _scores(encoding: ChannelEncoding, globally: float) -> Scores:
    relative = [values / max(float(np.abs(values).mean()), 1e-30) for values in encoding.importance]
    overall = np.split(best_first_ranks(np.concatenate(relative)), np.cumsum([len(values) for values in relative])[:-1])
    found = [globally * high + (1.0 - globally) * low for high, low in zip(overall, encoding.ranks, strict=True)]
    if len(encoding.wholes) < len(encoding.names):
        # Beside other decisions, parts leave whole where those alone can't keep the targets.
        for layer in encoding.wholes:
            found[layer] = 1.0 + encoding.scores[layer]
    return found
