"""Segmentation of drawn shapes."""

from __future__ import annotations

import torch

from evaluators.task import Batch
from evaluators.tasks.shapes.drawing import draw_shapes, noisy
from evaluators.tasks.shapes.shape_set import ShapeSet


class ShapeMasks(ShapeSet):
    """Segmentation: a disc and a square in noise; every pixel is background, disc or square."""

    classes = 3
    task = "evaluators.tasks.segmentation:Segmentation"

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return images of shape ``(N, 1, side, side)`` and classes of shape ``(N, side, side)``; the disc is in front."""
        covered = draw_shapes(count, self.settings.side, generator).covered
        disc, square = covered[:, 0], covered[:, 1]
        targets = torch.where(disc, 1, torch.where(square, 2, 0))
        return noisy(disc | square, self.settings.noise, generator), targets
