"""Regression on drawn shapes."""

from __future__ import annotations

import torch

from evaluators.task import Batch
from evaluators.tasks.shapes.drawing import draw_shapes, noisy
from evaluators.tasks.shapes.shape_set import ShapeSet


class ShapeSizes(ShapeSet):
    """Regression: a disc and a square in noise, and how large each of them is, from -1 to 1."""

    classes = 2
    task = "evaluators.tasks.regression:Regression"

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return images of shape ``(N, 1, side, side)`` and sizes of shape ``(N, 2)``; shapes over each other are one."""
        drawn = draw_shapes(count, self.settings.side, generator)
        return noisy(drawn.covered[:, :2].any(dim=1), self.settings.noise, generator), 2 * drawn.sizes[:, :2] - 1
