"""Pairs of drawn shapes."""

from __future__ import annotations

import torch

from evaluators.task import Batch
from evaluators.tasks.shapes.drawing import SHAPES, draw_shapes, noisy
from evaluators.tasks.shapes.shape_set import ShapeSet


class ShapePairs(ShapeSet):
    """Two inputs: images of one shape each, which are of the same kind (class 1) in half of the pairs."""

    classes = 2

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return two images of shape ``(N, 1, side, side)`` each, and classes, int64 of shape ``(N,)``."""
        same = torch.rand(count, generator=generator) < 0.5
        first = torch.randint(len(SHAPES), (count,), generator=generator)
        other = (first + torch.randint(1, len(SHAPES), (count,), generator=generator)) % len(SHAPES)
        rows = torch.arange(count)
        images = []
        for kinds in (first, torch.where(same, first, other)):
            covered = draw_shapes(count, self.settings.side, generator).covered[rows, kinds]
            images.append(noisy(covered, self.settings.noise, generator))
        return tuple(images), same.long()
