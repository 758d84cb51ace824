"""Data sets: samples with their targets in three splits."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from evaluators.task import Batch, MissingDataError, PixelScale, Split
from spaces.errors import SecateursError
from spaces.execution.batch import select

ROOT_VARIABLE = "SECATEURS_DATA"

Augmentation = Literal["crop", "flip"]


class DataError(SecateursError):
    """A data set does not allow what the configuration asks of it."""


@dataclass(frozen=True)
class DataSettings:
    """Options common to all data sets.

    Attributes:
        root: Folder of the files; by default the environment variable ``SECATEURS_DATA``, else ``data``.
        download: Whether to fetch missing files, where the data set can be fetched.
        search_size: Samples set aside from the training set for searches and early stopping.
        calibration_size: Samples held out of training besides, on which ranges of activations and Omega are found; 0 takes
            training samples for it.
        split_seed: Seed of the order in which they are set aside.
        train_size: Number of the remaining samples to train on; None for all.
        augment: ``true`` for the data set's natural augmentations, ``false`` for none, or a list of ``crop`` and ``flip``.
        mean: Mean of every channel on a scale of 0 to 1; None for the data set's own.
        std: Standard deviation of every channel on that scale; None for the data set's own.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    root: str | None = None
    download: bool = False
    search_size: int = 5000
    calibration_size: int = 0
    split_seed: int = 0
    train_size: int | None = None
    augment: bool | tuple[Augmentation, ...] = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        if self.search_size < 1:
            raise ValueError(f"search_size: expected at least 1 sample, got {self.search_size}")
        if self.calibration_size < 0:
            raise ValueError(f"calibration_size: expected at least 0 samples, got {self.calibration_size}")
        if self.split_seed < 0:
            raise ValueError(f"split_seed: expected at least 0, got {self.split_seed}")
        if self.train_size is not None and self.train_size < 1:
            raise ValueError(f"train_size: expected at least 1 sample, got {self.train_size}")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std: expected numbers above 0, got {list(self.std)}")

    def folder(self) -> Path:
        """Return the absolute path of the folder with the data set's files."""
        return Path(self.root or os.environ.get(ROOT_VARIABLE) or "data").expanduser().absolute()

    def augmentations(self, natural: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        """Return the augmentations to apply, given the data set's ``natural`` ones."""
        if isinstance(self.augment, bool):
            return natural if self.augment else ()
        return self.augment


def missing(name: str, looked_for: str, folder: Path, downloadable: bool) -> MissingDataError:
    """Return the error for files that are not in ``folder``, with the ways to get them.

    Args:
        name: Registry name of the data set.
        looked_for: The missing files, as a noun phrase.
        folder: The folder that was searched.
        downloadable: Whether ``data.download`` can fetch the files.
    """
    there = [entry.name for entry in sorted(folder.iterdir())[:5]] if folder.is_dir() else []
    found = f"it begins with {', '.join(there)}" if there else "it is empty" if folder.is_dir() else "there is no such folder"
    fetch = "set data.download: true to fetch it, or " if downloadable else ""
    return MissingDataError(
        f"{name}: looked for {looked_for} in {folder} and did not find it ({found}); {fetch}point data.root or the environment "
        f"variable {ROOT_VARIABLE} at the folder that holds it"
    )


def split_indices(samples: int, settings: DataSettings) -> dict[Split, np.ndarray]:
    """Return the positions in the training set of the train, the search and the calibration samples, in a fixed order.

    Raises:
        DataError: ``search_size`` and ``calibration_size`` leave nothing to train on.
    """
    held = settings.search_size + settings.calibration_size
    if held >= samples:
        words = f"search_size {settings.search_size}"
        words += f" and calibration_size {settings.calibration_size}" if settings.calibration_size else ""
        leaves = "leave" if settings.calibration_size else "leaves"
        raise DataError(f"{words} {leaves} nothing to train on: the training set has {samples} samples")
    order = np.random.default_rng(settings.split_seed).permutation(samples)
    return {
        "train": order[held:][: settings.train_size],
        "search": order[: settings.search_size],
        "calibration": order[settings.search_size : held],
    }


class DataSet(ABC):
    """Samples in three splits, labelled images unless ``task`` says otherwise.

    ``size`` and ``batches`` keep the contract of :class:`evaluators.task.Task`.

    Built from a frozen ``Settings``; files are read at the first call for a batch or a size.

    Attributes:
        settings: The settings that it was built from.
        classes: Number of classes.
        pixel_scale: Normalization of its images; None for other samples, or where it is not known.

    Class attributes:
        task: Import path of the task over the data, a subclass of :class:`evaluators.tasks.named_task.NamedTask`.
    """

    settings: DataSettings
    classes: int
    pixel_scale: PixelScale | None = None
    task: ClassVar[str] = "evaluators.tasks.classification:Classification"

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes by their number; None where they have none."""
        return None

    @property
    def calibration_split(self) -> Split:
        """``calibration`` where ``settings.calibration_size`` holds samples out of training, else ``train``."""
        return "calibration" if self.settings.calibration_size else "train"

    @abstractmethod
    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""

    @abstractmethod
    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterable[Batch]:
        """Yield ``(images, labels)``: shape ``(N, C, H, W)`` in float32 and ``(N,)`` in int64."""

    def batch_rows(self, split: Split, batch_size: int, generator: torch.Generator, start: int, stop: int) -> Iterable[Batch]:
        """Yield the samples from ``start`` up to ``stop`` of every batch with a generator; by default of whole batches."""
        for inputs, targets in self.batches(split, batch_size, generator, None):
            yield select(inputs, start, stop), select(targets, start, stop)

    def check_data(self) -> Iterable[str]:
        """Look at the files before a run, and return a line on each thing that was found; by default nothing is looked at.

        Raises:
            DataError: They can't be used.
        """
        return ()

    @abstractmethod
    def example(self) -> Tensor:
        """Return one unaugmented sample as a batch, such as an image of shape ``(1, C, H, W)``."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of content, splits and preparation, independent of the folder."""
