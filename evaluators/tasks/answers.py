"""Answers of a classifier, sample by sample, beside those of the network that it is compared with."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.task import Task
from spaces.execution.batch import Nested, first_tensor_of

MOST_SAMPLES = 100_000
"""Samples whose answers are kept, the first ones of the split."""
MOST_PICTURES = {"wrong": 8, "right": 4}
"""Samples that are shown of those that have become wrong, and of those that have become right."""
MOST_PIXELS = 48
"""Height and width of a shown sample, at most."""


class Answers:
    """Labels and first guesses of a network on a split, and the samples on which they changed from right to wrong or back.

    Args:
        task: A task; one without class labels, or whose outputs are no logits of shape ``(N, classes)``, has no answers.
        before: First guesses of the network that is compared with, in the order of the samples; None for none.

    Attributes:
        labels: Class of every sample.
        guesses: First guess for every sample.
        samples: Of the changed samples the first ones, each ``index``, ``label``, ``before``, ``after`` and ``picture``
            (:func:`small_picture`).
    """

    def __init__(self, task: Task, before: Sequence[int] | None = None) -> None:
        """Start without a sample."""
        self.labels: list[int] = []
        self.guesses: list[int] = []
        self.samples: list[dict[str, Any]] = []
        self._task, self._before = task, before
        self._open = dict(MOST_PICTURES)

    def add(self, inputs: Nested, outputs: Any, targets: Nested) -> None:
        """Add a batch, in the fixed order of the split."""
        labels = self._task.labels(targets)
        if labels is None or labels.dim() != 1 or not isinstance(outputs, Tensor) or outputs.dim() != 2:
            return
        if len(outputs) != len(labels) or len(self.labels) >= MOST_SAMPLES:
            return
        start = len(self.labels)
        guesses = outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()
        self.labels += labels.tolist()
        self.guesses += guesses.tolist()
        if self._before is None:
            return
        for place, (label, after) in enumerate(zip(self.labels[start:], self.guesses[start:], strict=True)):
            before = self._before[start + place] if start + place < len(self._before) else after
            change = "wrong" if before == label != after else "right" if after == label != before else ""
            if change and self._open[change]:
                self._open[change] -= 1
                row = {"index": start + place, "label": label, "before": before, "after": after}
                self.samples.append({**row, "picture": small_picture(inputs, place)})

    def to_json(self) -> dict[str, Any] | None:
        """Return all that is kept, and the ``names`` of the classes or None, as JSON data; None for a task without answers."""
        if not self.labels:
            return None
        names = self._task.class_names
        named = None if names is None else list(names)
        return {"labels": self.labels, "guesses": self.guesses, "samples": self.samples, "names": named}


def small_picture(inputs: Nested, place: int) -> Mapping[str, Any] | None:
    """Return a sample of a batch as a small picture; None for one that is no image of 1 or 3 channels.

    Values are stretched from the sample's smallest to its largest, since a task may have normalized them in any way.

    Returns:
        ``height``, ``width``, ``channels``, and ``data``: bytes row by row, in base64.
    """
    batch = first_tensor_of(inputs)
    if batch is None or batch.dim() != 4 or batch.shape[1] not in (1, 3) or min(batch.shape[2:]) < 2:
        return None
    image = batch[place].detach().float().cpu()
    scale = min(1.0, MOST_PIXELS / max(image.shape[1:]))
    if scale < 1.0:
        size = [max(1, round(side * scale)) for side in image.shape[1:]]
        image = F.interpolate(image[None], size=size, mode="area")[0]
    low, high = image.min(), image.max()
    pixels = ((image - low) / (high - low).clamp(min=1e-12) * 255).nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)
    channels, height, width = pixels.shape
    data = base64.b64encode(bytes(pixels.permute(1, 2, 0).flatten().tolist())).decode()
    return {"height": height, "width": width, "channels": channels, "data": data}
