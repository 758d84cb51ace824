"""A task of one's own: finding shapes in noisy images pixel by pixel, with a small U-Net. No download, no class label.

    python -m search run configs/shape_segmentation.yaml

What a run needs of a task that is not classification is all here: the network, three splits, a loss and a score per sample.
Network and drawing are shipped ones; a segmentation that is all shipped is ``configs/segmentation_unet_genetic.yaml``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.task import Batch, Split, Task
from evaluators.tasks.batches import batch_places
from evaluators.tasks.shapes.drawing import draw_shapes, noisy
from spaces.networks import unet_small

CLASSES = 3
"""Background, disc, square."""


class ShapeSegmentation(Task):
    """A disc and a square in noise; every pixel is background, disc or square.

    Args:
        width: Channels of the network's first level.
        side: Height and width of the images, a multiple of 4.
        noise: Standard deviation of the noise; the shapes are 1 brighter than the background.
        samples: Images to train on; a quarter as many to search with, and to test with.
        seed: Of the images and of the network's first weights.
    """

    def __init__(self, width: int = 8, side: int = 32, noise: float = 0.5, samples: int = 1024, seed: int = 0) -> None:
        if side % 4 or side < 16:
            raise ValueError(f"side: expected a multiple of 4 from 16, got {side}")
        self._width, self._side, self._noise, self._seed = width, side, noise, seed
        self._sizes: dict[Split, int] = {"train": samples, "search": samples // 4, "test": samples // 4}

    @property
    def score_name(self) -> str:
        """``iou``: the mean intersection over union of the classes, per image."""
        return "iou"

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return unet_small(outputs=CLASSES, width=self._width)

    def reference_model(self) -> nn.Module:
        return self.build()

    def size(self, split: Split) -> int:
        return self._sizes[split]

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        images, targets = self._data[split]
        count = len(images) if limit is None else min(limit, len(images))
        for rows in batch_places(count, batch_size, generator):
            chosen, expected = images[rows], targets[rows]
            if generator is not None and split == "train" and bool(torch.rand((), generator=generator) < 0.5):
                chosen, expected = chosen.flip(-1), expected.flip(-1)
            yield chosen, expected

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits of shape ``(N, classes, H, W)`` over all pixels, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        predicted = F.one_hot(outputs.argmax(dim=1), CLASSES).flatten(1, 2).bool()
        expected = F.one_hot(targets, CLASSES).flatten(1, 2).bool()
        both, either = (predicted & expected).sum(1), (predicted | expected).sum(1)
        return {"iou": (both / either.clamp(min=1)).mean(dim=1)}

    def example_inputs(self) -> Tensor:
        return self._data["search"][0][:1]

    @property
    def fingerprint(self) -> str:
        content = f"shapes {self._width} {self._side} {self._noise} {self._sizes} {self._seed}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def _data(self) -> dict[Split, tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self._seed)
        return {split: self._drawn(count, generator) for split, count in self._sizes.items()}

    def _drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images of shape ``(count, 1, side, side)`` and the class of every pixel; the disc is in front."""
        disc, square, _ = draw_shapes(count, self._side, generator).covered.unbind(dim=1)
        return noisy(disc | square, self._noise, generator), torch.where(disc, 1, torch.where(square, 2, 0))
