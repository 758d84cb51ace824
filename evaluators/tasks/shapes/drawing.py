"""Discs, squares and crosses at random places and of random sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ("disc", "square", "cross")


@dataclass(frozen=True)
class Drawn:
    """Shapes of many images, one of each kind an image.

    Attributes:
        covered: Pixels of each, boolean of shape ``(N, shapes, side, side)``, shapes in the order of :data:`SHAPES`.
        sizes: Sizes from 0, the smallest, to 1, of shape ``(N, shapes)``; that is the radius from an eighth to a quarter of the
            side.
    """

    covered: Tensor
    sizes: Tensor


def draw_shapes(count: int, side: int, generator: torch.Generator) -> Drawn:
    """Draw a disc, a square and a cross for each of ``count`` images, inside the image and perhaps over each other.

    Args:
        count: Number of images, ``N``.
        side: Height and width of the images in pixels.
        generator: Source of places and sizes.
    """
    sizes = torch.rand(count, len(SHAPES), generator=generator)
    radius = ((1 + sizes) * side / 8)[:, :, None, None]
    places = torch.rand(2, count, len(SHAPES), 1, 1, generator=generator)
    down, right = radius + places * (side - 1 - 2 * radius)
    rows = (torch.arange(side)[:, None] - down).abs()
    columns = (torch.arange(side) - right).abs()
    furthest, nearest = torch.maximum(rows, columns), torch.minimum(rows, columns)
    disc = rows.square() + columns.square() <= radius.square()
    square = furthest <= radius
    cross = square & (4 * nearest <= radius)
    kinds = torch.stack([disc[:, 0], square[:, 1], cross[:, 2]], dim=1)
    return Drawn(kinds, sizes)


def noisy(covered: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return images that are 1 where ``covered``, else 0, with noise, of shape ``(N, 1, H, W)``.

    Args:
        covered: Boolean, of shape ``(N, H, W)``.
        noise: Standard deviation of the noise.
        generator: Source of the noise.
    """
    return covered.float()[:, None] + noise * torch.randn(covered.shape, generator=generator)[:, None]
