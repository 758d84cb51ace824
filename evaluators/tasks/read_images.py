"""Images that worker processes read and prepare for every batch, from whatever holds them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from evaluators.task import Batch, PixelScale, Split
from evaluators.tasks.data import Augmentation, DataError, DataSet, DataSettings
from evaluators.tasks.image_files import Bounds, PreparedImages, Sample, collate

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NATURAL: tuple[Augmentation, ...] = ("crop", "flip")
SAMPLED = 200
"""Images of ``train``, and of ``val``, whose pixels are decoded before a run."""

KEPT_BYTES = 2**28
"""Images that every candidate is measured on are kept in memory up to this size: decoding takes as long as a small network."""

_LOGGER = logging.getLogger("search")

Key = tuple[int, int | None]
"""Position of an image in its split, and the seed of its augmentation; None for none."""


@dataclass(frozen=True)
class ReadImagesSettings(DataSettings):
    """Options of images that are read for every batch.

    Attributes:
        image_size: Height and width of the network's inputs, in pixels.
        resize: Shorter side before the central crop; None for ``image_size / 0.875``, as usual on ImageNet.
        smallest_area: Smallest share of an image's area that a random crop shows.
        workers: Processes that read images; 0 reads in this one.
        damaged_images: ``refuse`` to end with the names of images that can't be decoded or are too large, and of hidden
            folders; ``skip`` to leave them out: what only decoding shows is replaced by the next image of its split, and
            the log has its number and the first names.
        most_pixels: Most pixels of an image, as stored and once its shorter side is resized: a small file may decode to
            gigabytes.
    """

    image_size: int = 224
    resize: int | None = None
    smallest_area: float = 0.08
    workers: int = 2
    damaged_images: Literal["refuse", "skip"] = "refuse"
    most_pixels: int = 20_000_000

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.image_size < 1:
            raise ValueError(f"image_size: expected at least 1 pixel, got {self.image_size}")
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"resize: expected at least image_size {self.image_size}, got {self.resize}")
        if not 0 < self.smallest_area <= 1:
            raise ValueError(f"smallest_area: expected a share above 0 and up to 1, got {self.smallest_area}")
        if self.most_pixels < (self.resize or self.image_size) ** 2:
            raise ValueError(f"most_pixels: expected at least those of the resized image, got {self.most_pixels}")
        if self.workers < 0:
            raise ValueError(f"workers: expected at least 0, got {self.workers}")
        if self.download:
            raise ValueError("download: images of your own cannot be fetched; put them under root")


class ReadImages(DataSet):
    """Images of ``train`` and ``val``, the test split, that are decoded for every batch; the search split is set aside from
    ``train``.

    Training images: random resized crop and flip; others: resize and central crop (Krizhevsky et al. 2012; Szegedy et al. 2015,
    arXiv 1409.4842). The same generator gives the same batches whatever the number of workers.

    Class attributes:
        name: Registry name, for messages.
    """

    Settings: ClassVar[type[DataSettings]] = ReadImagesSettings
    settings: ReadImagesSettings
    name: ClassVar[str]

    def __init__(self, settings: ReadImagesSettings) -> None:
        """Compose the transforms; no file is read yet.

        Raises:
            DataError: ``mean`` or ``std`` has not 3 values.
        """
        from torchvision.transforms import v2

        self.settings = settings
        mean, std = list(settings.mean or MEAN), list(settings.std or STD)
        if len(mean) != 3 or len(std) != 3:
            raise DataError(f"{self.name}: expected 3 values for data.mean and data.std, got {mean} and {std}")
        self.pixel_scale = PixelScale(tuple(mean), tuple(std))
        finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std, inplace=True)]
        size = settings.image_size
        central = [v2.Resize(settings.resize or round(size / 0.875)), v2.CenterCrop(size)]
        names = settings.augmentations(NATURAL)
        random: list[v2.Transform] = (
            [v2.RandomResizedCrop(size, scale=(settings.smallest_area, 1.0))] if "crop" in names else central
        )
        if "flip" in names:
            random = [*random, v2.RandomHorizontalFlip()]
        self._fixed = v2.Compose([*central, *finish])
        self._random = v2.Compose([*random, *finish])
        self._replaced: dict[str, str] = {}
        self._bounds = Bounds(settings.most_pixels, settings.resize or round(size / 0.875))
        self._skips = settings.damaged_images == "skip"
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @abstractmethod
    def samples(self, split: str) -> Sequence[Sample]:
        """Return the places of the images of a split and their classes, in its fixed order."""

    def shuffled(self, split: str, count: int, generator: torch.Generator) -> list[int]:
        """Return the first ``count`` positions of a split in the order that ``generator`` draws."""
        order: list[int] = torch.randperm(count, generator=generator).tolist()
        return order

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return len(self.samples(split))

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterable[Batch]:
        """Yield ``(images, labels)``: shape ``(N, 3, H, W)`` in float32 and ``(N,)`` in int64."""
        count = self.size(split) if limit is None else min(limit, self.size(split))
        if generator is not None:
            return self._read(split, self._groups(split, count, batch_size, generator))
        if self._fits(split, count):
            return self._from_memory(split, count, batch_size)
        return self._read(split, _grouped([(position, None) for position in range(count)], batch_size))

    def batch_rows(self, split: Split, batch_size: int, generator: torch.Generator, start: int, stop: int) -> Iterable[Batch]:
        """Yield the samples from ``start`` up to ``stop`` of every batch; no others are read."""
        groups = self._groups(split, self.size(split), batch_size, generator)
        return self._read(split, [group[start:stop] for group in groups])

    def example(self) -> Tensor:
        """Return the first training image as a batch, shape ``(1, 3, H, W)``."""
        return self._files("train")[(0, None)][0].unsqueeze(0)

    def _groups(self, split: str, count: int, batch_size: int, generator: torch.Generator) -> list[list[Key]]:
        order = self.shuffled(split, count, generator)
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        keys: list[Key] = [(position, seed if split == "train" else None) for position, seed in zip(order, seeds, strict=True)]
        return _grouped(keys[: count // batch_size * batch_size], batch_size)

    def _files(self, split: str) -> PreparedImages:
        return PreparedImages(self.name, self.samples(split), self._bounds, self._skips, self._fixed, self._random)

    def _read(self, split: str, groups: list[list[Key]]) -> Iterator[Batch]:
        # The loader draws a seed for its workers, which nothing here uses: keep it off the global generator.
        unused = torch.Generator().manual_seed(0)
        sampler: Any = groups
        damaged: dict[str, str] = {}
        loader: Any = DataLoader(
            self._files(split),
            batch_sampler=sampler,
            num_workers=self.settings.workers,
            generator=unused,
            collate_fn=collate,
        )
        try:
            for images, labels, found in loader:
                damaged.update(found)
                yield images, labels
        except DataError as error:
            # Out of a worker process it comes wrapped in that process's traceback.
            raise DataError(str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]) from None
        finally:
            self._tell(split, damaged)

    def _tell(self, split: str, damaged: dict[str, str]) -> None:
        """Log the images of a pass that only decoding has shown to be damaged, each once, by number and the first by name."""
        if new := [reason for path, reason in damaged.items() if path not in self._replaced]:
            self._replaced.update(damaged)
            _LOGGER.warning(
                "data: images of %s that can't be decoded, replaced by the next: %d new, %d in all: %s",
                split,
                len(new),
                len(self._replaced),
                "; ".join(new[:3]),
            )

    def _fits(self, split: str, count: int) -> bool:
        others = sum(len(kept) for name, kept in self._kept.items() if name != split)
        return (others + max(count, len(self._kept.get(split, [])))) * 3 * self.settings.image_size**2 * 4 <= KEPT_BYTES

    def _from_memory(self, split: Split, count: int, batch_size: int) -> Iterator[Batch]:
        kept = self._kept.setdefault(split, [])
        groups = _grouped([(position, None) for position in range(len(kept), count)], batch_size)
        read = [pair for images, labels in self._read(split, groups) for pair in zip(images, labels, strict=True)]
        kept.extend(read)
        for first in range(0, count, batch_size):
            images, labels = zip(*kept[first : min(first + batch_size, count)], strict=True)
            yield torch.stack(images), torch.stack(labels)

    def preparation(self) -> str:
        """Return what, beside the files, decides on the samples, for the fingerprint."""
        settings = self.settings
        prepared = (settings.image_size, settings.resize, settings.smallest_area, settings.mean, settings.std)
        splits = (settings.search_size, settings.split_seed, settings.train_size)
        held = f"calibration {settings.calibration_size}" if settings.calibration_size else ""
        return repr((prepared, splits, settings.augmentations(NATURAL))) + held


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return ``count`` samples at equal distances, or all where there are no more."""
    if len(samples) <= count:
        return list(samples)
    return [samples[index * len(samples) // count] for index in range(count)]


def _grouped(keys: list[Key], batch_size: int) -> list[list[Key]]:
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
