"""Levels: decisions whose values can be put in order, from the cheapest to the dearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from spaces.candidate import Candidate, Value


@runtime_checkable
class OrdinalSpace(Protocol):
    """A space whose every decision has levels, so that algorithms for keep-masks can search it as well.

    Attributes:
        levels: The legal values of every decision, by decision name, from the cheapest to the dearest.
        budgeted: Whether every candidate is brought to the space's own budget, so that levels only say how it is shared.
    """

    levels: Mapping[str, Sequence[Value]]
    budgeted: bool

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return what reaching each level is worth: by decision name, float64 of shape ``(levels,)``, never rising."""
        ...


def costliest(space: OrdinalSpace) -> Candidate:
    """Return the candidate of the highest levels."""
    return Candidate({name: levels[-1] for name, levels in space.levels.items()})
