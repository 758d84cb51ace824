"""Data sets small enough to hold in memory."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evaluators.task import Batch, PixelScale, Split
from evaluators.tasks.augmentation import normalize, random_crop, random_flip
from evaluators.tasks.batches import batch_places
from evaluators.tasks.data import Augmentation, DataError, DataSet, DataSettings, split_indices

CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Images:
    """Images held in memory: ``pixels`` of shape ``(N, C, H, W)`` in uint8, ``labels`` of shape ``(N,)`` in int64."""

    pixels: Tensor
    labels: Tensor


class InMemory(DataSet):
    """A data set small enough to hold in memory, as bytes; batches are augmented and normalized whole.

    Unaugmented samples of repeated reads (the search split, batches for BatchNorm re-calibration) are kept in float32, up to
    1 GiB.

    Class attributes:
        natural: The augmentations usual for the data set.
        padding: Largest shift of a random crop, in pixels.
        scale: The pixel value that becomes 1.
        mean, std: Of every channel, on a scale of 0 to 1.
    """

    Settings: ClassVar[type[DataSettings]] = DataSettings
    natural: ClassVar[tuple[Augmentation, ...]] = ("crop",)
    padding: ClassVar[int] = 4
    scale: ClassVar[float] = 255.0
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def __init__(self, settings: DataSettings) -> None:
        """Keep the settings; nothing is loaded yet.

        Raises:
            DataError: ``mean`` or ``std`` has another number of values than the images have channels.
        """
        self.settings = settings
        self._mean = settings.mean if settings.mean is not None else self.mean
        self._std = settings.std if settings.std is not None else self.std
        if len(self._mean) != len(self.mean) or len(self._std) != len(self.mean):
            raise DataError(
                f"{type(self).__name__}: expected {len(self.mean)} values for data.mean and data.std, one per channel, got "
                f"{list(self._mean)} and {list(self._std)}"
            )
        self.pixel_scale = PixelScale(self._mean, self._std)
        self._splits: dict[str, Images] = {}
        self._ready: dict[str, Tensor] = {}

    @abstractmethod
    def load(self, training: bool) -> Images:
        """Return the training set or the test set.

        Raises:
            MissingDataError: The files are not in the data set's folder.
        """

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return len(self._images(split).labels)

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterable[Batch]:
        """Yield ``(images, labels)``: shape ``(N, C, H, W)`` in float32 and ``(N,)`` in int64."""
        count = self.size(split) if limit is None else min(limit, self.size(split))
        return self._fixed(split, batch_size, count) if generator is None else self._random(split, batch_size, generator, count)

    def example(self) -> Tensor:
        """Return the first training image as a batch, shape ``(1, C, H, W)``."""
        return self._normalized(self._images("train").pixels[:1])

    @property
    def fingerprint(self) -> str:
        """Hash of the training set's shape, labels and first bytes, the splits and the preparation."""
        settings, digest = self.settings, hashlib.sha256()
        for split in ("train", "search"):
            images = self._images(split)
            digest.update(repr(tuple(images.pixels.shape)).encode())
            digest.update(images.labels.numpy().tobytes())
            digest.update(images.pixels[:256].numpy().tobytes())
        prepared = (type(self).__name__, self._mean, self._std, settings.augmentations(self.natural))
        digest.update(repr((prepared, settings.search_size, settings.split_seed, settings.train_size)).encode())
        if settings.calibration_size:
            digest.update(f"calibration {settings.calibration_size}".encode())
        return digest.hexdigest()[:16]

    def _images(self, split: str) -> Images:
        if split not in self._splits:
            if split == "test":
                self._splits["test"] = self.load(training=False)
            else:
                whole = self.load(training=True)
                for name, indices in split_indices(len(whole.labels), self.settings).items():
                    chosen = torch.from_numpy(indices)
                    self._splits[name] = Images(whole.pixels[chosen], whole.labels[chosen])
        return self._splits[split]

    def _normalized(self, pixels: Tensor) -> Tensor:
        return normalize(pixels, self.scale, self._mean, self._std)

    def _random(self, split: Split, batch_size: int, generator: torch.Generator, count: int) -> Iterator[Batch]:
        images = self._images(split)
        names = self.settings.augmentations(self.natural) if split == "train" else ()
        for chosen in batch_places(count, batch_size, generator):
            pixels = images.pixels[chosen]
            if "crop" in names:
                pixels = random_crop(pixels, self.padding, generator)
            if "flip" in names:
                pixels = random_flip(pixels, generator)
            yield self._normalized(pixels), images.labels[chosen]

    def _fixed(self, split: Split, batch_size: int, count: int) -> Iterator[Batch]:
        images = self._images(split)
        ready = self._kept(split, count)
        version = ready._version if ready is not None else 0
        for start in range(0, count, batch_size):
            end = min(start + batch_size, count)
            pixels = ready[start:end] if ready is not None else self._normalized(images.pixels[start:end])
            yield pixels, images.labels[start:end]
            if ready is not None and ready._version != version:
                # The network wrote into its inputs: make them anew, and keep no more of this split.
                self._ready[split] = torch.empty(0)
                ready = None

    def _kept(self, split: Split, count: int) -> Tensor | None:
        """Return the first ``count`` samples in float32 if they may be kept, else None."""
        pixels = self._images(split).pixels
        kept = self._ready.get(split)
        if kept is not None and (len(kept) >= count or len(kept) == 0):
            return kept if len(kept) else None
        others = sum(tensor.numel() for name, tensor in self._ready.items() if name != split)
        if split == "test" or 4 * (others + pixels[:1].numel() * count) > CACHE_BYTES:
            return None
        # Inference tensors could not be used for gradients later.
        with torch.inference_mode(False):
            self._ready[split] = self._normalized(pixels[:count])
        return self._ready[split]
