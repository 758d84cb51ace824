"""Images in class folders, as ImageNet is laid out, read and prepared by worker processes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from evaluators.task import Batch, PixelScale, Split
from evaluators.tasks.data import Augmentation, DataError, DataSet, DataSettings, missing, split_indices
from evaluators.tasks.image_files import (
    Bounds,
    DamagedImageError,
    PreparedImages,
    Sample,
    collate,
    header_problems,
    hidden_folders,
    read_image,
)
from evaluators.tasks.image_listing import list_images

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NATURAL: tuple[Augmentation, ...] = ("crop", "flip")
SAMPLED = 200
"""Images of ``train``, and of ``val``, whose pixels are decoded before a run."""

KEPT_BYTES = 2**28
"""Images that every candidate is measured on are kept in memory up to this size: decoding takes as long as a small network."""

_LOGGER = logging.getLogger("search")


@dataclass(frozen=True)
class ImageFolderSettings(DataSettings):
    """Options of :class:`ImageFolder`.

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
            raise ValueError("download: an image folder cannot be fetched; put the images under root")


class ImageFolder(DataSet):
    """Images under ``root/train/CLASS/`` and ``root/val/CLASS/``; ``val`` is the test split.

    The search split is set aside from ``train``. Training images: random resized crop and flip; others: resize and
    central crop (Krizhevsky et al. 2012; Szegedy et al. 2015, arXiv 1409.4842). The same generator gives the same
    batches whatever the number of workers. A class has the images of the folders in it too. Folders are listed once and kept
    under ``~/.cache/secateurs`` (or ``SECATEURS_CACHE``); one that has changed since, by its times, is listed again.
    """

    Settings: ClassVar[type[DataSettings]] = ImageFolderSettings
    settings: ImageFolderSettings

    def __init__(self, settings: ImageFolderSettings) -> None:
        """Compose the transforms; no file is read yet.

        Raises:
            DataError: ``mean`` or ``std`` has not 3 values.
        """
        from torchvision.transforms import v2

        self.settings = settings
        mean, std = list(settings.mean or MEAN), list(settings.std or STD)
        if len(mean) != 3 or len(std) != 3:
            raise DataError(f"image_folder: expected 3 values for data.mean and data.std, got {mean} and {std}")
        self.pixel_scale = PixelScale(tuple(mean), tuple(std))
        finish = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
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
        self._samples: dict[str, list[Sample]] = {}
        self._damaged: dict[str, dict[str, str]] = {}
        self._replaced: dict[str, str] = {}
        self._bounds = Bounds(settings.most_pixels, settings.resize or round(size / 0.875))
        self._skips = settings.damaged_images == "skip"
        self._kept: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        """Number of class folders under ``train``."""
        return len({label for _, label in self._of("train")} | {label for _, label in self._of("search")})

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders under ``train``."""
        return tuple(self._scan("train")[1])

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return len(self._of(split))

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterable[Batch]:
        """Yield ``(images, labels)``: shape ``(N, 3, H, W)`` in float32 and ``(N,)`` in int64."""
        samples = self._of(split)
        count = len(samples) if limit is None else min(limit, len(samples))
        keys: list[tuple[int, int | None]] = [(position, None) for position in range(count)]
        if generator is None and self._fits(split, count):
            return self._from_memory(split, count, batch_size)
        if generator is not None:
            order = torch.randperm(count, generator=generator).tolist()
            seeds = torch.randint(2**62, (count,), generator=generator).tolist()
            augmented = split == "train"
            keys = [(position, seed if augmented else None) for position, seed in zip(order, seeds, strict=True)]
            keys = keys[: count // batch_size * batch_size]
        return self._read(split, keys, batch_size)

    def _files(self, samples: list[Sample]) -> PreparedImages:
        return PreparedImages(samples, self._bounds, self._skips, self._fixed, self._random)

    def check_data(self) -> Iterator[str]:
        """Look at the headers of all images and at the pixels of a sample, and yield a line on what was seen.

        Raises:
            DataError: Images are damaged or too large, or folders hidden, and are not to be skipped.
        """
        for part in ("train", "val"):
            place = self._place(part)
            samples, _ = list_images(place)
            damaged = self._damaged_of(part, samples)
            left = [path for path, _ in samples if path not in damaged]
            sample = [left[index * len(left) // SAMPLED] for index in range(SAMPLED)] if len(left) > SAMPLED else left
            undecoded = {}
            for path in sample:
                try:
                    read_image(path, self._bounds)
                except DamagedImageError as error:
                    undecoded[path] = str(error)
            found = [*damaged.values(), *undecoded.values()]
            looked = f"headers of {len(samples)} images in {part} and pixels of {len(sample)}"
            if found and not self._skips:
                raise DataError(
                    f"image_folder: {len(found)} damaged or too large, by {looked}: {'; '.join(found[:3])}. Replace or remove "
                    "them, or set data.damaged_images: skip"
                )
            folders = hidden_folders(place)
            words = (
                f", {len(damaged)} skipped and {len(undecoded)} replaced by the next: {'; '.join(found[:3])}" if found else ""
            )
            yield f"data: {looked}{words}" + (f", hidden folders skipped: {', '.join(folders[:5])}" if folders else "")

    def _damaged_of(self, part: str, samples: list[Sample]) -> dict[str, str]:
        """Return the images of ``train`` or ``val`` that their headers rule out, with the reasons; they are read once."""
        if part not in self._damaged:
            self._damaged[part] = header_problems((path for path, _ in samples), self._bounds)
        return self._damaged[part]

    def _read(self, split: str, keys: list[tuple[int, int | None]], batch_size: int) -> Iterator[Batch]:
        groups: Any = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        # The loader draws a seed for its workers, which nothing here uses: keep it off the global generator.
        unused = torch.Generator().manual_seed(0)
        files = self._files(self._of(split))
        damaged: dict[str, str] = {}
        loader: Any = DataLoader(
            files, batch_sampler=groups, num_workers=self.settings.workers, generator=unused, collate_fn=collate
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
        keys: list[tuple[int, int | None]] = [(position, None) for position in range(len(kept), count)]
        read = [pair for images, labels in self._read(split, keys, batch_size) for pair in zip(images, labels, strict=True)]
        kept.extend(read)
        for first in range(0, count, batch_size):
            images, labels = zip(*kept[first : min(first + batch_size, count)], strict=True)
            yield torch.stack(images), torch.stack(labels)

    def example(self) -> Tensor:
        """Return the first training image as a batch, shape ``(1, 3, H, W)``."""
        files = self._files(self._of("train"))
        return files[(0, None)][0].unsqueeze(0)

    @property
    def fingerprint(self) -> str:
        """Hash of the training files' names and classes, the first files' sizes, the splits and the preparation."""
        settings, digest = self.settings, hashlib.sha256()
        for split in ("train", "search"):
            samples = self._of(split)
            for path, label in samples:
                # Of a million files, a Path each takes ten seconds.
                folder, name = path.split("/")[-2:]
                digest.update(f"{folder}/{name} {label}\n".encode(errors="surrogateescape"))
            digest.update(repr([Path(path).stat().st_size for path, _ in samples[:256]]).encode())
        prepared = (settings.image_size, settings.resize, settings.smallest_area, settings.mean, settings.std)
        splits = (settings.search_size, settings.split_seed, settings.train_size)
        digest.update(repr((prepared, splits, settings.augmentations(NATURAL))).encode())
        if settings.calibration_size:
            digest.update(f"calibration {settings.calibration_size}".encode())
        return digest.hexdigest()[:16]

    def _of(self, split: str) -> list[Sample]:
        if split not in self._samples:
            if split == "test":
                found, names = self._scan("val")
                _, expected = self._scan("train")
                if names != expected:
                    only = {"train": set(expected) - set(names), "val": set(names) - set(expected)}
                    words = [f"only in {part}: {', '.join(sorted(some)[:5])}" for part, some in only.items() if some]
                    raise DataError(
                        f"image_folder: expected the same class folders in train and val of {self.settings.folder()}; "
                        f"{'; '.join(words)}. Rename or add folders, so that every class has one in both"
                    )
                self._samples["test"] = found
            else:
                found, _ = self._scan("train")
                for name, indices in split_indices(len(found), self.settings).items():
                    self._samples[name] = [found[i] for i in indices]
        return self._samples[split]

    def _place(self, part: str) -> Path:
        place = self.settings.folder() / part
        if not place.is_dir() or not any(entry.is_dir() for entry in place.iterdir()):
            raise missing("image_folder", f"images as {part}/CLASS/*.jpg", place.parent, downloadable=False)
        return place

    def _scan(self, part: str) -> tuple[list[Sample], list[str]]:
        place = self._place(part)
        if (hidden := hidden_folders(place)) and not self._skips:
            raise DataError(
                f"image_folder: expected a folder per class in {place}, got hidden ones: "
                f"{', '.join(hidden[:5])}; move them elsewhere, or set data.damaged_images: skip"
            )
        samples, names = list_images(place)
        if not names:
            raise missing("image_folder", f"images as {part}/CLASS/*.jpg", place.parent, downloadable=False)
        if self._skips:
            damaged = self._damaged_of(part, samples)
            samples = [sample for sample in samples if sample[0] not in damaged]
        filled = {label for _, label in samples}
        if empty := [name for label, name in enumerate(names) if label not in filled]:
            from torchvision.datasets.folder import IMG_EXTENSIONS

            raise DataError(
                f"image_folder: expected images ({', '.join(IMG_EXTENSIONS)}) in every class folder of {place}; none in "
                f"{', '.join(empty[:5])}. Put some there, or remove the folder, in train as in val"
            )
        return samples, names
