"""Augmentation of images in a training, by torchvision's transforms v2: RandAugment and random erasing.

torchvision is imported where it is used: it takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evaluators.task import PixelScale


@dataclass(frozen=True)
class RandAugmentSettings:
    """Options of RandAugment (Cubuk et al. 2020, arXiv 1909.13719).

    Attributes:
        operations: Number of operations on every image.
        magnitude: Strength of the operations, from 0 to 30.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.operations < 1:
            raise ValueError(f"operations: expected at least 1, got {self.operations}")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude: expected a whole number from 0 to 30, got {self.magnitude}")


@dataclass(frozen=True)
class ImageOperations:
    """Operations on single images, each with the randomness of its own seed.

    Attributes:
        rand_augment: Options of RandAugment; None for none.
        erasing: Probability of erasing a rectangle of an image (Zhong et al. 2020, arXiv 1708.04896).
        scale: Normalization of the images, which RandAugment takes back; None without RandAugment.
    """

    rand_augment: RandAugmentSettings | None
    erasing: float
    scale: PixelScale | None

    def apply(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images, each changed as its seed draws.

        Args:
            images: Shape ``(N, C, H, W)``, floating-point, normalized; left as they are.
            seeds: ``N`` seeds.
        """
        from torchvision.transforms import v2

        chosen = self.rand_augment
        augment = None if chosen is None else v2.RandAugment(num_ops=chosen.operations, magnitude=chosen.magnitude)
        erase = v2.RandomErasing(p=self.erasing)
        given = images if augment is None or self.scale is None else self.scale.pixels(images)
        changed = []
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(given, seeds, strict=True):
                torch.default_generator.manual_seed(seed)
                if augment is not None and self.scale is not None:
                    image = self.scale.normalized(augment(image), images.dtype)
                changed.append(erase(image))
        return torch.stack(changed)
