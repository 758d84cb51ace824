"""Images read by ``image_folder`` and its two workers, against torchvision's ImageFolder with the reference's transforms.

Both read the same generated JPEG files, in turns; CPU seconds of the reading processes and of this one. Called by
:mod:`benchmarks.training`.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluators.tasks.image_folder import ImageFolder, ImageFolderSettings
from evaluators.tasks.read_images import MEAN, STD

WORKERS = 2
BATCH = 64
PIXELS = 224


def write_images(folder: Path, count: int) -> None:
    """Write smooth images of about 500 x 375 pixels, as ImageNet's are, into two classes of ``train`` and ``val``."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        for part in ("train", "val") if number < 4 else ("train",):
            place = folder / part / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg", quality=90)


def ours(folder: Path) -> Callable[[int], Iterable[Any]]:
    """Return what reads an epoch of ``image_folder``."""
    data = ImageFolder(ImageFolderSettings(root=str(folder), search_size=1, image_size=PIXELS, workers=WORKERS))
    data.size("train")
    return lambda epoch: data.batches("train", BATCH, torch.Generator().manual_seed(epoch), None)


def reference(folder: Path) -> Callable[[int], Iterable[Any]]:
    """Return what reads an epoch of torchvision's ImageFolder, with the transforms of its reference training."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder as Folder

    steps = [transforms.RandomResizedCrop(PIXELS), transforms.RandomHorizontalFlip(0.5), transforms.PILToTensor()]
    finish = [transforms.ConvertImageDtype(torch.float), transforms.Normalize(MEAN, STD)]
    data = Folder(str(folder / "train"), transforms.Compose([*steps, *finish]))
    loader: Any = DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    return lambda epoch: loader


def throughputs(images: int, turns: int) -> dict[str, Any]:
    """Return images per CPU second of both, and quartiles of their ratio over the turns."""
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), images + 1)
        sides = {"ours": ours(Path(name)), "reference": reference(Path(name))}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(turns + 1):
            for side, epoch in sides.items():
                began, read = _used(), 0
                for batch, _ in epoch(turn):
                    read += len(batch)
                rates[side].append(read / (_used() - began))
    ratios = [one / other for one, other in zip(rates["ours"][1:], rates["reference"][1:], strict=True)]
    return {**{side: statistics.median(some[1:]) for side, some in rates.items()}, "ratio": statistics.quantiles(ratios, n=4)}


def _used() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)
