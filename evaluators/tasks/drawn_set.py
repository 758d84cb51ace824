"""Data sets drawn from a seed: what they have in common."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

import torch

from evaluators.task import Batch, Split
from evaluators.tasks.batches import batch_places
from evaluators.tasks.data import DataSet, DataSettings, split_indices
from spaces.execution.batch import Nested, named_tensors, reorder


@dataclass(frozen=True)
class DrawnSettings(DataSettings):
    """Options of :class:`DrawnSet`; ``root`` and ``download`` have no effect, the samples are drawn.

    Attributes:
        samples: Samples drawn for training, search and calibration together.
        test_samples: Samples drawn for the test.
        seed: Seed of the drawing.
    """

    search_size: int = 256
    samples: int = 1280
    test_samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        for name in ("samples", "test_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 sample, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: expected at least 0, got {self.seed}")
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: is an option of photographs; drawn samples are taken as they are")
        if self.augment is not True:
            raise ValueError("augment: is an option of photographs; draw more samples instead")


class DrawnSet(DataSet):
    """Drawn samples in three splits, held in memory; the test split is drawn from another seed than the rest.

    Subclasses say in :meth:`draw` what inputs and targets are.
    """

    Settings: ClassVar[type[DataSettings]] = DrawnSettings
    settings: DrawnSettings

    def __init__(self, settings: DrawnSettings) -> None:
        """Keep the settings; nothing is drawn yet."""
        self.settings = settings
        self._splits: dict[str, Batch] = {}

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Return inputs and targets of ``count`` samples, each any nesting of tensors with a row per sample."""

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return self._count(self._samples(split))

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterator[Batch]:
        """Yield ``(inputs, targets)``."""
        samples = self._samples(split)
        count = min(self._count(samples), self._count(samples) if limit is None else limit)
        for places in batch_places(count, batch_size, generator):
            yield reorder(samples, places)

    def example(self) -> Nested:
        """Return the inputs of the first training sample as a batch."""
        inputs, _ = next(self.batches("train", 1, None, 1))
        return inputs

    @property
    def fingerprint(self) -> str:
        """Hash of the samples of training and search, and of the options."""
        options = [(field.name, getattr(self.settings, field.name)) for field in fields(self.settings)]
        described = [one for one in options if one[0] not in ("root", "download")]
        digest = hashlib.sha256(repr((type(self).__name__, described)).encode())
        for split in ("train", "search"):
            for name, tensor in named_tensors(self._samples(split)):
                digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @staticmethod
    def _count(samples: Batch) -> int:
        _, first = next(named_tensors(samples))
        return len(first)

    def _samples(self, split: Split) -> Batch:
        if split not in self._splits:
            settings = self.settings
            if split == "test":
                self._splits["test"] = self._drawn(settings.test_samples, 2 * settings.seed + 1)
            else:
                places = split_indices(settings.samples, settings)
                whole = self._drawn(settings.samples, 2 * settings.seed)
                self._splits |= {name: reorder(whole, torch.from_numpy(chosen)) for name, chosen in places.items()}
        return self._splits[split]

    def _drawn(self, count: int, seed: int) -> Batch:
        return self.draw(count, torch.Generator().manual_seed(seed))
