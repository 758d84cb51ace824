"""Batches whose samples are mixed in pairs: mixup and cutmix, by torchvision's transforms v2.

torchvision is imported where it is used: it takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spaces.execution.batch import Nested, reorder, select


@dataclass(frozen=True)
class Mixed:
    """A batch in which every sample is mixed with the one before it, the first with the last.

    Attributes:
        inputs: The mixed images, of shape ``(N, C, H, W)``.
        targets: Targets of the samples themselves.
        others: Targets of the samples that they are mixed with.
        share: Share of a sample itself; the other one has the rest.
    """

    inputs: Tensor
    targets: Nested
    others: Nested
    share: float

    def part(self, start: int, stop: int) -> Mixed:
        """Return the samples from ``start`` up to ``stop``."""
        rows = (select(self.targets, start, stop), select(self.others, start, stop))
        return Mixed(self.inputs[start:stop], *rows, self.share)


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412) and cutmix (Yun et al. 2019, arXiv 1905.04899).

    Attributes:
        mixup: Both parameters of the beta distribution that a batch's share is drawn from; None for no mixup.
        cutmix: The same for cutmix. Where both are given, each batch has one of them, drawn with equal odds.
    """

    mixup: float | None
    cutmix: float | None

    def mix(self, inputs: Tensor, targets: Nested, seed: int) -> Mixed:
        """Return a batch mixed as ``seed`` draws.

        Args:
            inputs: Images, floating-point of shape ``(N, C, H, W)``.
            targets: Targets with a row per sample.
            seed: Seed of all draws.
        """
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            cuts = self.mixup is None or (self.cutmix is not None and float(torch.rand(())) < 0.5)
            mixes: Any = v2.CutMix(alpha=self.cutmix or 1.0) if cuts else v2.MixUp(alpha=self.mixup or 1.0)
            drawn: dict[str, Any] = {**mixes.make_params([inputs]), "labels": None, "batch_size": len(inputs)}
        mixed: Tensor = mixes.transform(inputs, drawn)
        share = drawn["lam_adjusted"] if cuts else drawn["lam"]
        return Mixed(mixed, targets, reorder(targets, torch.arange(len(inputs)).roll(1)), float(share))
