"""Augmentation of whole batches of images, every sample with its own randomness from a generator passed in.

torchvision is imported where it is used: it takes seconds, and a worker that only evaluates never needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to ``padding`` pixels each way, filling with 0.

    Args:
        images: Shape ``(N, C, H, W)``, any type.
        padding: Pixels added on every side before a window of the old size is cut out.
        generator: Source of the shifts.

    Returns:
        Images of the same shape and type.
    """
    from torchvision.transforms.v2 import functional

    count, _, height, width = images.shape
    padded: Tensor = functional.pad(images, [padding])
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    return windows[torch.arange(count), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror every image left to right with probability 1/2; shape ``(N, C, H, W)`` in and out."""
    from torchvision.transforms.v2 import functional

    chosen = torch.rand(len(images), generator=generator) < 0.5
    mirrored: Tensor = functional.horizontal_flip(images)
    return torch.where(chosen[:, None, None, None], mirrored, images)


def normalize(images: Tensor, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return ``(images / scale - mean) / std`` in float32, ``mean`` and ``std`` per channel.

    Args:
        images: Shape ``(N, C, H, W)``, whole numbers from 0 to ``scale``.
        scale: The value that becomes 1 before normalisation.
        mean: Mean of every channel.
        std: Standard deviation of every channel.
    """
    shift = torch.tensor(mean)[:, None, None]
    return images.float().div_(scale).sub_(shift).div_(torch.tensor(std)[:, None, None])
