"""Detection: discs and squares in noise, found by torchvision's SSDLite; its score is the mean average precision. No download.

    python -m search run configs/shape_detection.yaml

A network that gives its losses in training mode needs ``model_gives_losses``; what can't be exported, the suppression of
overlapping boxes, is left out of :meth:`ShapeDetection.exported`. Needs the extra ``metrics``.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from evaluators.meters import ImportedMeter, Meter, MeterSettings
from evaluators.metrics import Metric
from evaluators.task import Batch, Split, Task, summed_losses
from evaluators.tasks.batches import batch_places

CLASSES = 3
"""Background, square, disc."""
Target = dict[str, Tensor]
"""``boxes``, float32 of shape ``(shapes, 4)`` from left, top to right, bottom in pixels, and ``labels``, int64."""


class Backbone(nn.Module):
    """Convolutions that give feature maps of an eighth and a sixteenth of the image.

    Args:
        width: Channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_block(3, width, 2), _block(width, 2 * width, 2), _block(2 * width, 2 * width, 1))
        self.fine = _block(2 * width, 4 * width, 2)
        self.coarse = _block(4 * width, 4 * width, 2)
        self.out_channels = [4 * width, 4 * width]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps for images of shape ``(N, 3, H, W)``."""
        fine = self.fine(self.stem(images))
        return OrderedDict(fine=fine, coarse=self.coarse(fine))


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6())


def ssdlite(width: int, side: int) -> SSD:
    """Return an SSDLite (Sandler et al., CVPR 2018, arXiv 1801.04381) for images of shape ``(3, side, side)``."""
    backbone = Backbone(width)
    boxes = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.45, 0.7])
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    head = SSDLiteHead(backbone.out_channels, boxes.num_anchors_per_location(), CLASSES, norm)
    few = {"score_thresh": 0.05, "topk_candidates": 40, "detections_per_img": 20}
    return SSD(backbone, boxes, (side, side), CLASSES, [0.5] * 3, [0.5] * 3, head, **few)


class ShapeDetection(Task):
    """One or two discs and squares in noise, each with its box.

    Args:
        width: Channels of the network's first layer.
        side: Height and width of the images, a multiple of 16.
        samples: Images to train on; a quarter as many to search with, and to test with.
        seed: Of the images and of the network's first weights.
    """

    model_gives_losses = True

    def __init__(self, width: int = 16, side: int = 64, samples: int = 512, seed: int = 0) -> None:
        if side % 16 or side < 32:
            raise ValueError(f"side: expected a multiple of 16 from 32, got {side}")
        self._width, self._side, self._seed = width, side, seed
        self._sizes: dict[Split, int] = {"train": samples, "search": samples // 4, "test": samples // 4}

    @property
    def score_name(self) -> str:
        """``map``: the mean average precision over overlaps from 50 to 95 %."""
        return "map"

    @property
    def score_metrics(self) -> Mapping[str, Metric]:
        return {"map": Metric("fraction", "maximize", "mAP", "number", is_cost=False)}

    def meters(self) -> Mapping[str, Meter]:
        return {"map": ImportedMeter(MeterSettings("torchmetrics.detection.MeanAveragePrecision", key="map"))}

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            model: nn.Module = ssdlite(self._width, self._side)
            return model

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
            yield images[rows], [targets[row] for row in rows.tolist()]

    def loss(self, outputs: dict[str, Tensor], targets: list[Target], label_smoothing: float = 0.0) -> Tensor:
        """Return the sum of the losses that the network gave: of classes and of boxes."""
        return summed_losses(outputs)

    def score(self, outputs: list[Target], targets: list[Target]) -> dict[str, Tensor]:
        """Return none: the mean average precision accumulates."""
        return {}

    def exported(self, model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        """Return, for every default box, offsets ``(N, boxes, 4)`` and shares of the classes ``(N, boxes, classes)``."""
        parts: Any = model
        transform = parts.transform
        mean, deviation = (torch.tensor(given)[:, None, None] for given in (transform.image_mean, transform.image_std))
        found = parts.head(list(parts.backbone((inputs - mean) / deviation).values()))
        return {"offsets": found["bbox_regression"], "shares": found["cls_logits"].softmax(-1)}

    def example_inputs(self) -> Tensor:
        return self._data["search"][0][:1]

    @property
    def fingerprint(self) -> str:
        content = f"shape boxes {self._width} {self._side} {self._sizes} {self._seed}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def _data(self) -> dict[Split, tuple[Tensor, list[Target]]]:
        generator = torch.Generator().manual_seed(self._seed)
        return {split: self._drawn(count, generator) for split, count in self._sizes.items()}

    def _drawn(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[Target]]:
        """Return images of shape ``(count, 3, side, side)`` and the boxes in each; a later shape covers an earlier one."""
        side = self._side
        images, targets = 0.3 * torch.rand(count, 3, side, side, generator=generator), []
        for image in images:
            boxes, labels = [], []
            for _ in range(int(torch.randint(1, 3, (), generator=generator))):
                size = int(torch.randint(side // 5, 2 * side // 5, (), generator=generator))
                top, left = torch.randint(0, side - size, (2,), generator=generator).tolist()
                label = int(torch.randint(1, CLASSES, (), generator=generator))
                away = torch.arange(size) - (size - 1) / 2
                covered = (away[:, None] ** 2 + away**2 <= (size / 2) ** 2) | torch.tensor(label == 1)
                colour = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
                place = image[:, top : top + size, left : left + size]
                place.copy_(torch.where(covered, colour, place))
                boxes.append([left, top, left + size, top + size])
                labels.append(label)
            targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
        return images, targets
