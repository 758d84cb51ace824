"""Options of the levels of keep-masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class LevelSettings:
    """Options of the levels of keep-masks.

    Attributes:
        steps: Most levels of a channel group, spread evenly from the fewest channels that it may keep to all of them.
        images: Most training samples that the order in which channels leave is learnt from, where the criterion
            ``second_order`` learns it.
        divergence_images: Training samples that the divergence of each level alone is measured on, where an integer program
            reads it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    steps: int = 16
    images: int = 512
    divergence_images: int = 64

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.steps < 2:
            raise ValueError(f"steps: expected at least 2, got {self.steps}")
        for name, value in (("images", self.images), ("divergence_images", self.divergence_images)):
            if value < 2:
                raise ValueError(f"{name}: expected at least 2, got {value}")
