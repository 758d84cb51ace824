"""Options of successive halving: many candidates are trained briefly, the best of them further, and few to the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class HalvingSettings:
    """Options of successive halving (Jamieson, Talwalkar 2016, arXiv 1502.07943).

    Attributes:
        fidelities: Shares of the training after which candidates are compared, ascending, below 1; the promoted ones are
            trained to the next share, and after the last one to the end.
        keep: Share of the candidates promoted at every rung, at least one candidate.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    fidelities: tuple[float, ...] = (0.25, 0.5)
    keep: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        rising = list(self.fidelities)
        if not rising or sorted(set(rising)) != rising or not rising[0] > 0.0 or not rising[-1] < 1.0:
            raise ValueError(f"fidelities: expected rising shares between 0 and 1, got {rising}")
        if not 0.0 < self.keep < 1.0:
            raise ValueError(f"keep: expected a share between 0 and 1, got {self.keep}")

    def promoted(self, number: int) -> int:
        """Return how many of ``number`` candidates are promoted."""
        return max(1, math.floor(number * self.keep + 1e-9)) if number else 0

    def rungs(self, candidates: int) -> Sequence[int]:
        """Return the largest number of trials of each rung for a batch of ``candidates``, the last at full fidelity."""
        counts = [candidates]
        for _ in self.fidelities:
            counts.append(self.promoted(counts[-1]))
        return counts
