"""The small image sets: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from evaluators.task import MissingDataError
from evaluators.tasks.data import Augmentation, DataSettings, missing
from evaluators.tasks.idx_file import read_bytes
from evaluators.tasks.in_memory import Images, InMemory


@dataclass(frozen=True)
class DigitsSettings(DataSettings):
    """Options of :class:`Digits`; ``root`` and ``download`` have no effect, the data is part of scikit-learn."""

    search_size: int = 300


class Digits(InMemory):
    """8x8 grey digits, 10 classes: 1,347 training images and 450 test images, bundled with scikit-learn.

    The test split of the UCI optical recognition set's 1,797 images is drawn once, with a fixed seed.
    """

    Settings: ClassVar[type[DataSettings]] = DigitsSettings
    classes = 10
    padding = 1
    scale = 16.0
    mean = (0.305,)
    std = (0.376,)

    test_samples: ClassVar[int] = 450

    def load(self, training: bool) -> Images:
        """Return the training set (``training``) or the test set."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        order = np.random.default_rng(0).permutation(len(bunch.target))
        chosen = order[self.test_samples :] if training else order[: self.test_samples]
        pixels = torch.from_numpy(bunch.images[chosen].astype(np.uint8)).unsqueeze(1)
        return Images(pixels, torch.from_numpy(bunch.target[chosen].astype(np.int64)))


def _fetch(kind: str, name: str, looked_for: str, settings: DataSettings, training: bool) -> Any:
    """Return torchvision's data set ``kind``; raise MissingDataError, with the ways to get it, if the files aren't there."""
    from torchvision import datasets

    folder = settings.folder()
    try:
        return getattr(datasets, kind)(str(folder), train=training, download=settings.download)
    except (RuntimeError, OSError) as error:
        if settings.download:
            raise MissingDataError(f"{name}: fetching it to {folder} failed: {error}; is there a network?") from error
        raise missing(name, looked_for, folder, downloadable=True) from error


class FashionMNIST(InMemory):
    """28x28 grey pictures of clothes, 10 classes: 60,000 training and 10,000 test images.

    Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747.
    """

    classes = 10
    class_names = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    natural: ClassVar[tuple[Augmentation, ...]] = ("crop", "flip")
    padding = 2
    mean = (0.2860,)
    std = (0.3530,)

    def load(self, training: bool) -> Images:
        """Return the training set (``training``) or the test set; torchvision, slow to import, fetches and unpacks only."""
        looked_for = "FashionMNIST/raw with its four IDX files"
        part = "train" if training else "t10k"
        raw = self.settings.folder() / "FashionMNIST" / "raw"
        files = raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"
        if all(path.is_file() for path in files):
            pixels, labels = read_bytes(files[0], 3), read_bytes(files[1], 1)
            if pixels is not None and labels is not None and len(pixels) == len(labels):
                return Images(pixels.unsqueeze(1), labels.long())
        loaded = _fetch("FashionMNIST", "fashion_mnist", looked_for, self.settings, training)
        return Images(loaded.data.unsqueeze(1), loaded.targets.long())


class CIFAR10(InMemory):
    """32x32 color pictures, 10 classes: 50,000 training and 10,000 test images (Krizhevsky 2009)."""

    classes = 10
    class_names: Sequence[str] | None = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )
    natural: ClassVar[tuple[Augmentation, ...]] = ("crop", "flip")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)

    kind: ClassVar[str] = "CIFAR10"
    name: ClassVar[str] = "cifar10"
    folder: ClassVar[str] = "cifar-10-batches-py"

    def load(self, training: bool) -> Images:
        """Return the training set (``training``) or the test set."""
        loaded = _fetch(self.kind, self.name, self.folder, self.settings, training)
        pixels = torch.from_numpy(loaded.data).permute(0, 3, 1, 2).contiguous()
        return Images(pixels, torch.tensor(loaded.targets))


class CIFAR100(CIFAR10):
    """32x32 color pictures, 100 classes: 50,000 training and 10,000 test images (Krizhevsky 2009)."""

    classes = 100
    class_names = None
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    kind = "CIFAR100"
    name = "cifar100"
    folder = "cifar-100-python"
