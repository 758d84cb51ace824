"""Several labels of drawn shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from evaluators.task import Batch
from evaluators.tasks.data import DataSettings
from evaluators.tasks.shapes.drawing import SHAPES, draw_shapes, noisy
from evaluators.tasks.shapes.shape_set import ShapeSet, ShapeSettings


@dataclass(frozen=True)
class ShapeLabelsSettings(ShapeSettings):
    """Options of :class:`ShapeLabels`.

    Attributes:
        labels: Number of labels: 1 for the disc alone, 2 for disc and square, 3 for the cross too.
    """

    labels: int = len(SHAPES)

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if not 1 <= self.labels <= len(SHAPES):
            raise ValueError(f"labels: expected 1 to {len(SHAPES)}, got {self.labels}")


class ShapeLabels(ShapeSet):
    """Several labels: a disc, a square and a cross, each in every other image, and which of them are there."""

    Settings: ClassVar[type[DataSettings]] = ShapeLabelsSettings
    settings: ShapeLabelsSettings
    task = "evaluators.tasks.labels:Labels"

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Number of labels."""
        return self.settings.labels

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return images of shape ``(N, 1, side, side)`` and labels, int64 of shape ``(N, labels)``."""
        covered = draw_shapes(count, self.settings.side, generator).covered
        there = torch.rand(count, len(SHAPES), generator=generator) < 0.5
        images = noisy((covered & there[:, :, None, None]).any(dim=1), self.settings.noise, generator)
        return images, there[:, : self.settings.labels].long()
