"""Options that data sets of drawn shapes have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evaluators.tasks.data import DataSettings
from evaluators.tasks.drawn_set import DrawnSet, DrawnSettings


@dataclass(frozen=True)
class ShapeSettings(DrawnSettings):
    """Options of :class:`ShapeSet`.

    Attributes:
        side: Height and width of the images in pixels, a multiple of 4.
        noise: Standard deviation of the noise in every pixel; shapes are 1 brighter than what is behind.
    """

    side: int = 16
    noise: float = 0.3

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.side % 4 or self.side < 16:
            raise ValueError(f"side: expected a multiple of 4, at least 16, got {self.side}")
        if not self.noise >= 0:
            raise ValueError(f"noise: expected a number from 0, got {self.noise}")


class ShapeSet(DrawnSet):
    """Images of shapes in noise; subclasses say in :meth:`draw` what inputs and targets are."""

    Settings: ClassVar[type[DataSettings]] = ShapeSettings
    settings: ShapeSettings
