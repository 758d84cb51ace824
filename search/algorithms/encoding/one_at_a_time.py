"""Greedy removal of whole parts, one at a time, in the order that their divergence gave: a baseline of depth."""

from __future__ import annotations

from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.study.problem import Problem
from spaces.candidate import Candidate
from spaces.errors import SecateursError


def greedy_divergence(problem: Problem) -> Candidate:
    """Return the candidate without the first parts of the table ``removal_order``, as few as keep the targets.

    Where all of them do not, it is the cheapest candidate.

    Raises:
        SecateursError: The space has no parts to remove one at a time, so that there is no such table.
        UnreachableTargetError: Even the cheapest candidate exceeds a target.
    """
    order = problem.tables.get("removal_order")
    if order is None:
        raise SecateursError(
            "the baseline greedy_divergence removes branches or blocks one at a time: expected the space depth; leave it out"
        )
    candidate = Candidate({name: values[-1] for name, values in problem.levels.items()})
    cheapest = problem.space.cheapest()
    for name in (None, *order):
        if name is not None:
            candidate = candidate.joined(Candidate({name: problem.levels[name][0]}))
        if problem.violation(problem.space.costs(candidate)) == 0.0:
            return candidate
    if cheapest is None or problem.violation(problem.space.costs(cheapest)) > 0.0:
        raise UnreachableTargetError(f"no choice of branches or blocks keeps the targets: {problem.space.target_remedy}")
    return cheapest
