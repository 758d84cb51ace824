"""Greedy masks by importance: baselines, and starting points of the genetic search."""

from __future__ import annotations

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks, Scores, best_first_ranks
from search.algorithms.encoding.level_allocation import LevelAllocation, uniform_allocation
from search.algorithms.encoding.repair import fit_to_targets
from search.study.problem import Problem
from spaces.candidate import Candidate
from spaces.errors import SecateursError


def uniform(problem: Problem) -> Candidate:
    """Return the candidate that keeps the same share of every layer, the most important channels first.

    The share is the largest that keeps the targets; the rest of the budget is filled, so that the baseline costs as much as
    the result of a search. If the decisions are numbers, such as bits, all layers get the same number.

    Raises:
        UnreachableTargetError: Even the smallest candidate exceeds a target.
        SecateursError: No target can be computed from the space's costs.
    """
    if LevelAllocation.fits(problem):
        return uniform_allocation(problem)
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
    return [globally * high + (1.0 - globally) * low for high, low in zip(overall, encoding.ranks, strict=True)]
