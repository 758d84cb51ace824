"""Steps of a diffusion process over drawn shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from evaluators.task import Batch
from evaluators.tasks.data import DataSettings
from evaluators.tasks.shapes.drawing import draw_shapes
from evaluators.tasks.shapes.shape_set import ShapeSet, ShapeSettings


@dataclass(frozen=True)
class ShapeNoiseSettings(ShapeSettings):
    """Options of :class:`ShapeNoise`; ``noise`` has no effect, the steps say how much of it there is.

    Attributes:
        steps: Time steps of the process, from hardly any noise to nothing else.
    """

    steps: int = 50

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")


class ShapeNoise(ShapeSet):
    """A diffusion step: an image of a disc and a square in much or little noise, its time step, and the noise in it.

    The image at step t is sqrt(a) times the image, from -1 to 1, and sqrt(1 - a) times noise of variance 1 (Ho, Jain, Abbeel
    2020, arXiv 2006.11239, equation 4), with the cosine schedule a(t) (Nichol, Dhariwal 2021, arXiv 2102.09672, equation 17).
    """

    Settings: ClassVar[type[DataSettings]] = ShapeNoiseSettings
    settings: ShapeNoiseSettings
    task = "evaluators.tasks.regression:Regression"
    classes = 1

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return ``{image, time}``, of shapes ``(N, 1, side, side)`` and ``(N,)``, and the noise, shaped like the image."""
        steps = self.settings.steps
        clean = 2.0 * draw_shapes(count, self.settings.side, generator).covered[:, :2].any(dim=1, keepdim=True).float() - 1.0
        times = torch.randint(steps, (count,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        kept = self.kept(times)[:, None, None, None]
        return {"image": kept.sqrt() * clean + (1.0 - kept).sqrt() * noise, "time": times}, noise

    def kept(self, times: torch.Tensor) -> torch.Tensor:
        """Return the share a(t) of the image's variance that is left at steps from 0, float32 of their shape."""
        offset = 0.008
        after = (times + 1) / self.settings.steps
        cosine = torch.cos((after + offset) / (1.0 + offset) * math.pi / 2)
        kept: torch.Tensor = (cosine / math.cos(offset / (1.0 + offset) * math.pi / 2)).square()
        return kept
