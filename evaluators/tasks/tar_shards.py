"""Images in tar archives, in WebDataset's layout: shards of samples that lie one behind the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from evaluators.tasks.data import DataError, DataSettings, missing, split_indices
from evaluators.tasks.image_files import Member, Sample, undecodable
from evaluators.tasks.read_images import SAMPLED, ReadImages, ReadImagesSettings, spread
from evaluators.tasks.tar_listing import list_shards

BYTES_PER_PIXEL = 8
"""Most bytes of an image file for each of ``most_pixels``: four channels of 16 bits."""


@dataclass(frozen=True)
class TarShardsSettings(ReadImagesSettings):
    """Options of :class:`TarShards`.

    Attributes:
        shuffle_buffer: Samples among which the next one is drawn; the archives, in an order that is drawn too, fill the places.
    """

    shuffle_buffer: int = 10_000

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        super().__post_init__()
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer: expected at least 1 sample, got {self.shuffle_buffer}")


class TarShards(ReadImages):
    """Samples in ``root/train/*.tar`` and ``root/val/*.tar``, each ``KEY.jpg`` (or another image) and ``KEY.cls``, a number.

    ``val`` is the test split, the search split is set aside from ``train``; images are prepared as those of ``image_folder``.
    Archives are read in place, by an index of their headers that is kept under ``~/.cache/secateurs`` (or ``SECATEURS_CACHE``):
    nothing is extracted or unpickled, names tell which files belong together and no more, other files are left alone. An epoch
    reads archive by archive within the window of ``shuffle_buffer``, in an order that follows from seed and epoch alone.
    """

    Settings: ClassVar[type[DataSettings]] = TarShardsSettings
    settings: TarShardsSettings
    name: ClassVar[str] = "tar_shards"

    def __init__(self, settings: TarShardsSettings) -> None:
        """Compose the transforms; no file is read yet.

        Raises:
            DataError: ``mean`` or ``std`` has not 3 values.
        """
        super().__init__(settings)
        self._parts: dict[str, _Part] = {}
        self._samples: dict[str, _Samples] = {}

    @cached_property
    def classes(self) -> int:  # type: ignore[override]
        """One more than the highest class in ``train``."""
        return self._part("train").classes

    def samples(self, split: str) -> _Samples:
        """Return the places of the images of a split and their classes, in its fixed order.

        Raises:
            DataError: Archives or samples can't be used and are not to be skipped, or classes are missing.
            MissingDataError: There are none.
        """
        if split not in self._samples:
            if split == "test":
                test = self._part("val")
                if test.classes > self.classes:
                    raise DataError(
                        f"tar_shards: expected classes from 0 to {self.classes - 1} in val of {self.settings.folder()}, as in "
                        f"train, got {test.classes - 1}"
                    )
                self._samples["test"] = _Samples(test, np.arange(len(test.rows)))
            else:
                train = self._part("train")
                for name, indices in split_indices(len(train.rows), self.settings).items():
                    self._samples[name] = _Samples(train, indices)
        return self._samples[split]

    def shuffled(self, split: str, count: int, generator: torch.Generator) -> list[int]:
        """Return the first ``count`` positions of a split, archive by archive, drawn from a buffer that they pass through."""
        samples = self.samples(split)
        # The order in which they lie, archive by archive.
        lying = np.argsort(samples.indices[:count], kind="stable")
        shards = samples.part.shards[samples.indices[lying]]
        bounds = np.flatnonzero(np.diff(shards)) + 1
        pieces = np.split(lying, bounds)
        order = np.concatenate([pieces[place] for place in torch.randperm(len(pieces), generator=generator).tolist()])
        return _through_buffer(order.tolist(), self.settings.shuffle_buffer, generator)

    def check_data(self) -> Iterator[str]:
        """Look at the headers of all samples and at the pixels of some, and yield a line on what was seen.

        Raises:
            DataError: Archives, samples or images can't be used, and are not to be skipped.
        """
        for name in ("train", "val"):
            part = self._part(name)
            sample = spread(_Samples(part, np.arange(len(part.rows))), SAMPLED)
            undecoded = undecodable(sample, self._bounds)
            looked = f"headers of {len(part.rows)} samples in {len(part.paths)} archives of {name} and pixels of {len(sample)}"
            found = [*part.reasons, *undecoded.values()]
            if undecoded and not self._skips:
                raise DataError(
                    f"tar_shards: {len(undecoded)} damaged or too large, by {looked}: {'; '.join(found[:3])}. Replace "
                    "or remove them, or set data.damaged_images: skip"
                )
            words = f", {part.problems} skipped and {len(undecoded)} replaced by the next: " if found else ""
            yield f"data: {looked}{words}{'; '.join(found[:3])}"

    @property
    def fingerprint(self) -> str:
        """Hash of the training archives' names, the places and classes of their samples, the splits and the preparation."""
        train, digest = self._part("train"), hashlib.sha256()
        digest.update(repr([Path(path).name for path in train.paths]).encode(errors="surrogateescape"))
        digest.update(train.shards.tobytes() + train.rows.tobytes() + self.preparation().encode())
        return digest.hexdigest()[:16]

    def _part(self, name: str) -> _Part:
        if name not in self._parts:
            self._parts[name] = self._listed(name)
        return self._parts[name]

    def _listed(self, name: str) -> _Part:
        from torchvision.datasets.folder import IMG_EXTENSIONS

        place = self.settings.folder() / name
        most = BYTES_PER_PIXEL * self.settings.most_pixels
        shards = list_shards(place, tuple(IMG_EXTENSIONS), most) if place.is_dir() else []
        if not shards:
            raise missing("tar_shards", f"archives as {name}/*.tar", place.parent, downloadable=False)
        indexes = [index for _, index in shards]
        reasons = [reason for index in indexes for reason in (*((index.damage,) if index.damage else ()), *index.reasons)]
        problems = sum(index.problems for index in indexes)
        damaged = sum(bool(index.damage) for index in indexes)
        if reasons and not self._skips:
            raise DataError(
                f"tar_shards: {damaged} of {len(shards)} archives in {place} damaged, and {problems} samples that can't be "
                f"used: {'; '.join(reasons[:3])}. Replace them, or set data.damaged_images: skip"
            )
        rows = np.concatenate([index.samples for index in indexes])
        absent = np.flatnonzero(np.bincount(rows[:, 2]) == 0) if name == "train" else np.empty(0, np.int64)
        if not len(rows) or len(absent):
            lacks = f"none of class {absent[0]}, and up to {rows[:, 2].max()} there are" if len(rows) else "none"
            raise DataError(
                f"tar_shards: expected samples KEY.jpg with KEY.cls, a class number counted from 0, in the archives of "
                f"{place}; there are {lacks}"
            )
        numbers = np.repeat(np.arange(len(shards)), [len(index.samples) for index in indexes])
        return _Part([path for path, _ in shards], numbers, rows, problems, tuple(reasons))


@dataclass(frozen=True)
class _Part:
    """Samples of ``train`` or ``val``, in the order in which they lie.

    Attributes:
        paths: The archives.
        shards: Number of the archive of every sample, int64.
        rows: First byte, number of bytes and class of every sample, int64.
        problems: Number of samples that can't be used.
        reasons: Names of damaged archives and of the first such samples, with the reasons.
    """

    paths: list[str]
    shards: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    problems: int
    reasons: tuple[str, ...]

    @property
    def classes(self) -> int:
        """One more than the highest class."""
        return int(self.rows[:, 2].max()) + 1


class _Samples(Sequence[Sample]):
    """Samples of a split, made when they are asked for: a million objects would take gigabytes in every worker."""

    def __init__(self, part: _Part, indices: npt.NDArray[np.int64]) -> None:
        self.part = part
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position):  # type: ignore[no-untyped-def]
        index = int(self.indices[position])
        offset, size, label = self.part.rows[index].tolist()
        return Member(self.part.paths[int(self.part.shards[index])], offset, size), label


def _through_buffer(order: list[int], size: int, generator: torch.Generator) -> list[int]:
    """Return ``order`` as it leaves a buffer of ``size`` places: one is drawn, and the next takes its place."""
    buffer, waiting = order[:size], order[size:]
    draws = torch.randint(len(buffer), (len(waiting),), generator=generator).tolist() if waiting else []
    left: list[int] = []
    for place, following in zip(draws, waiting, strict=True):
        left.append(buffer[place])
        buffer[place] = following
    return left + [buffer[place] for place in torch.randperm(len(buffer), generator=generator).tolist()]
