"""Settings of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ReconstructionSettings:
    """Options of a reconstruction by least squares, and by gradient behind it.

    Attributes:
        images: Most samples to solve on, without their labels (ours).
        positions: Most output positions of a layer to solve on, drawn by the run's seed (ours).
        damping: Ridge towards the present weights, as a share of the mean diagonal of the inputs' second moments (ours).
        sums: Solve the last layer of a branch for the sum that the branch is added into, so that it makes up for what layers
            before have lost there (ours).
        steps: Steps of gradient descent of every block with a nonlinearity inside, behind the least squares, towards the dense
            block's outputs on the same samples; 0 for least squares alone (ours).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    images: int = 768
    positions: int = 32768
    damping: float = 1e-3
    sums: bool = True
    steps: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        for name, value in (("images", self.images), ("positions", self.positions)):
            if value < 2:
                raise ValueError(f"{name}: expected at least 2, got {value}")
        if self.steps < 0:
            raise ValueError(f"steps: expected at least 0, got {self.steps}")
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f"damping: expected a number above 0 and at most 1, got {self.damping}")
