"""Images in class folders, as ImageNet is laid out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from evaluators.tasks.data import DataError, DataSettings, missing, split_indices
from evaluators.tasks.image_files import Sample, header_problems, hidden_folders, undecodable
from evaluators.tasks.image_listing import list_images
from evaluators.tasks.read_images import SAMPLED, ReadImages, ReadImagesSettings, spread

HEADERS = 20_000
"""Images of ``train``, and of ``val``, whose headers are read before a run; the others' when they are decoded (ours)."""


@dataclass(frozen=True)
class ImageFolderSettings(ReadImagesSettings):
    """Options of :class:`ImageFolder`."""


class ImageFolder(ReadImages):
    """Images under ``root/train/CLASS/`` and ``root/val/CLASS/``; ``val`` is the test split.

    The search split is set aside from ``train``. Training images: random resized crop and flip; others: resize and central crop
    (Krizhevsky et al. 2012; Szegedy et al. 2015, arXiv 1409.4842). The same generator gives the same batches whatever the
    number of workers. A class has the images of the folders in it too. Folders are listed once and kept under
    ``~/.cache/secateurs`` (or ``SECATEURS_CACHE``); one that has changed since, by its times, is listed again.
    """

    Settings: ClassVar[type[DataSettings]] = ImageFolderSettings
    name: ClassVar[str] = "image_folder"

    def __init__(self, settings: ImageFolderSettings) -> None:
        """Compose the transforms; no file is read yet.

        Raises:
            DataError: ``mean`` or ``std`` has not 3 values.
        """
        super().__init__(settings)
        self._samples: dict[str, list[Sample]] = {}
        self._damaged: dict[str, dict[str, str]] = {}

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        """Number of class folders under ``train``."""
        return len({label for _, label in self.samples("train")} | {label for _, label in self.samples("search")})

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders under ``train``."""
        return tuple(self._scan("train")[1])

    def check_data(self) -> Iterator[str]:
        """Look at headers of images and at the pixels of a sample, and yield a line on what was seen.

        Raises:
            DataError: Images are damaged or too large, or folders hidden, and are not to be skipped.
        """
        for part in ("train", "val"):
            place = self._place(part)
            samples, _ = list_images(place)
            damaged = self._damaged_of(part, samples)
            sample = spread([sample for sample in samples if sample[0] not in damaged], SAMPLED)
            undecoded = undecodable(sample, self._bounds)
            found = [*damaged.values(), *undecoded.values()]
            headers = len(spread(samples, HEADERS))
            of = "" if headers == len(samples) else f" of {len(samples)}"
            looked = f"headers of {headers}{of} images in {part} and pixels of {len(sample)}"
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
            self._damaged[part] = header_problems((path for path, _ in spread(samples, HEADERS)), self._bounds)
        return self._damaged[part]

    @property
    def fingerprint(self) -> str:
        """Hash of the training files' names and classes, the first files' sizes, the splits and the preparation."""
        digest = hashlib.sha256()
        for split in ("train", "search"):
            samples = self.samples(split)
            for path, label in samples:
                # Of a million files, a Path each takes ten seconds.
                folder, name = path.split("/")[-2:]
                digest.update(f"{folder}/{name} {label}\n".encode(errors="surrogateescape"))
            digest.update(repr([Path(path).stat().st_size for path, _ in samples[:256]]).encode())
        digest.update(self.preparation().encode())
        return digest.hexdigest()[:16]

    def samples(self, split: str) -> list[Sample]:
        """Return the paths of the images of a split and their classes, in its fixed order.

        Raises:
            DataError: ``train`` and ``val`` have other classes, or images can't be used.
            MissingDataError: There are none.
        """
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
