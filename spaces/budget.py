"""Sharing of a budget among layers, so that a few numbers decide about a whole network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_BISECTIONS = 40


def share_budget(
    amounts: Callable[[float], np.ndarray],
    largest: float,
    cost: Callable[[np.ndarray], float],
    budget: float,
    urgency: Callable[[np.ndarray, float], np.ndarray],
    sizes: np.ndarray,
    step: int | np.ndarray = 1,
) -> np.ndarray:
    """Return the amounts of all layers, in common proportion and then filled up, that cost at most ``budget``.

    First the largest common factor that keeps to the budget is found by bisection; then every layer in turn, the most urgent
    first, gets one more ``step`` if the budget still allows it, since whole channels leave some of it.

    Args:
        amounts: From a common factor to the legal amounts nearest to it, int64 of shape ``(layers,)``, rising with the factor.
        largest: Factor at which every layer has all.
        cost: Cost of such amounts, in the unit of ``budget``; rising with every amount. That of a factor of 0 keeps to
            ``budget``.
        budget: Largest cost allowed.
        urgency: From amounts and the factor found to numbers of shape ``(layers,)``; the lowest comes first.
        sizes: Largest amounts, int64 of shape ``(layers,)``.
        step: Amounts rise by this when filled up; one for all layers, or int64 of shape ``(layers,)``.
    """
    low, high = 0.0, largest
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(amounts(middle)) <= budget else (low, middle)
    shared = amounts(low)
    steps = np.broadcast_to(step, shared.shape)
    for place in np.argsort(urgency(shared, low), kind="stable").tolist():
        more = shared.copy()
        more[place] = min(sizes[place], more[place] + steps[place])
        if more[place] > shared[place] and cost(more) <= budget:
            shared = more
    return shared
