"""Penalty functions: decrease of a group's participation probability at an update, from its rank."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from spaces.errors import SecateursError
from spaces.registry import lookup

PENALTY_FUNCTIONS = {
    "exponential": "spaces.sparsifiers.penalty_function:CentreSymmetricExponential",
    "linear": "spaces.sparsifiers.penalty_function:Linear",
}

ZERO = 1e-12
_LARGEST_EXPONENT = 60.0
_CHECKED = (1, 2, 3, 7, 64, 1000)


class PenaltyFunction(ABC):
    """A function of a group's rank among the surviving groups of its layer, 0 the least important.

    Claim 3 of CN109034372B asks for a function that falls with the rank, is above 0 below the number of groups to prune, and
    below 0 at it and above. The author's own function is 0 at that very number, so what is asked of a registered function
    deviates there: non-increasing, above 0 for ranks below ``number``, at most 1e-12 at ``number``, and below 0 above it.

    Args:
        largest: ``A``, the value at rank 0, above 0 and at most 1.
        flatness: ``u``, above 0 and at most 1: where the function has its centre, ``u A`` high.
    """

    def __init__(self, largest: float, flatness: float) -> None:
        self.largest = largest
        self.flatness = flatness

    @abstractmethod
    def __call__(self, ranks: np.ndarray, number: int) -> np.ndarray:
        """Return the decreases of p at ``ranks``, of their shape, while ``number`` groups (above 0) are still to be pruned."""


class CentreSymmetricExponential(PenaltyFunction):
    """``A exp(-alpha r)`` up to the centre ``(N, u A)``, and from there its mirror image about the centre.

    ``alpha = (ln 2 - ln u) / number`` and ``N = -ln(u) / alpha``, so that it is 0 at ``number``. Wang, Zhang, Wang, Hu, BMVC
    2018, arXiv 1709.06994. The exponent is clamped (ours): it overflows where few of many groups are to be pruned.
    """

    def __call__(self, ranks: np.ndarray, number: int) -> np.ndarray:
        """Return the decreases of p at ``ranks``, of their shape."""
        alpha = (np.log(2.0) - np.log(self.flatness)) / number
        centre = -np.log(self.flatness) / alpha
        falling = self.largest * np.exp(-alpha * np.minimum(ranks, centre))
        exponent = np.minimum(-alpha * (2.0 * centre - np.maximum(ranks, centre)), _LARGEST_EXPONENT)
        mirrored = 2.0 * self.flatness * self.largest - self.largest * np.exp(exponent)
        values: np.ndarray = np.where(ranks <= centre, falling, mirrored)
        return values


class Linear(PenaltyFunction):
    """``A (1 - r / number)``: the straight line through the same ends (ours, to compare with); ``u`` has no part in it."""

    def __call__(self, ranks: np.ndarray, number: int) -> np.ndarray:
        """Return the decreases of p at ``ranks``, of their shape."""
        return self.largest * (1.0 - np.asarray(ranks, dtype=np.float64) / number)


def make_penalty_function(name: str, largest: float, flatness: float) -> PenaltyFunction:
    """Return the penalty function registered under ``name``, its properties checked.

    Raises:
        SecateursError: There is none of that name, or it lacks a property; the message says where.
    """
    function: PenaltyFunction = lookup(PENALTY_FUNCTIONS, name, "penalty function")(largest, flatness)
    require_properties(function)
    return function


def require_properties(function: PenaltyFunction) -> None:
    """Make sure that a penalty function has the properties that claim 3 asks for (see :class:`PenaltyFunction`).

    Raises:
        SecateursError: It doesn't; the message says which, and where.
    """
    name = type(function).__name__
    for number in _CHECKED:
        ranks = np.arange(2 * number + 3)
        values = np.asarray(function(ranks, number), dtype=np.float64)
        wrong = [
            (~np.isfinite(values), "a finite number"),
            (np.append(False, np.diff(values) > ZERO), "at most its value at the rank before"),
            ((ranks < number) & ~(values > 0.0), "above 0, below the number of groups to prune"),
            ((ranks == number) & ~(values <= ZERO), "at most 1e-12, at the number of groups to prune"),
            ((ranks > number) & ~(values < 0.0), "below 0, above the number of groups to prune"),
        ]
        for places, expected in wrong:
            if places.any():
                rank = int(np.flatnonzero(places)[0])
                raise SecateursError(
                    f"penalty function {name} at rank {rank} of {number} groups to prune: expected {expected}, got "
                    f"{values[rank]:g}; claim 3 of CN109034372B asks for this"
                )
