"""Files of images in class folders: looked at by their headers, and decoded within bounds."""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from evaluators.tasks.data import DataError

if TYPE_CHECKING:
    # It loads for seconds, which those that have no such images need not wait for.
    from torchvision.transforms import v2

REMEDY = "replace or remove it, or set data.damaged_images: skip"

READERS = 8
"""Threads that read headers: opening many small files waits for the disk."""

Sample = tuple[Any, int]
"""Place of an image, a path or a :class:`Member` of an archive, and the number of its class."""


class Member(NamedTuple):
    """Place of an image inside an archive.

    Attributes:
        archive: Path of the archive.
        offset: First byte.
        size: Number of bytes.
    """

    archive: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Return the place in words."""
        return f"{self.archive} at byte {self.offset}"

    def read(self) -> bytes:
        """Return the bytes."""
        with Path(self.archive).open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise EOFError("the archive is shorter than it was")
        return content


class DamagedImageError(DataError):
    """An image that can't be decoded, or that would take too much memory."""


@dataclass(frozen=True)
class Bounds:
    """Sizes that an image must keep to.

    Attributes:
        pixels: Most pixels, as stored and after ``resize``.
        resize: Pixels of the shorter side after the first preparation; a thin image grows by that.
    """

    pixels: int
    resize: int

    def require(self, size: tuple[int, int]) -> None:
        """Raise for an image of ``size``, (width, height) in pixels, that is too large or too thin.

        Raises:
            ValueError: The message has the size and the bound.
        """
        short, long = min(size), max(size)
        most = max(short * long, self.resize**2 * long // max(short, 1))
        if most > self.pixels:
            raise ValueError(
                f"{size[0]} x {size[1]} pixels, expected at most {self.pixels:,}, also once resized: data.most_pixels"
            )


def read_image(place: str | Member, bounds: Bounds) -> Image.Image:
    """Return the pixels of an image, in RGB; they are decoded once its header has shown a size within ``bounds``.

    Raises:
        DamagedImageError: It can't be decoded, or is too large; the message names the file.
        OSError: The system has no more files or memory, which says nothing about the image.
    """
    try:
        with _unwarned(), _opened(place) as file, Image.open(file) as image:
            bounds.require(image.size)
            return image.convert("RGB")
    except Exception as error:
        raise _damaged(str(place), error) from error


def undecodable(samples: Iterable[Sample], bounds: Bounds) -> dict[str, str]:
    """Return the images that can't be decoded, by place, with the reasons."""
    found = {}
    for place, _ in samples:
        try:
            read_image(place, bounds)
        except DamagedImageError as error:
            found[str(place)] = str(error)
    return found


def _opened(place: str | Member) -> BinaryIO:
    return io.BytesIO(place.read()) if isinstance(place, Member) else Path(place).open("rb")


def header_problem(path: str, bounds: Bounds) -> str | None:
    """Return the reason why an image can't be used, as far as its header shows one; None where it doesn't.

    Raises:
        OSError: The system has no more files or memory, which says nothing about the image.
    """
    try:
        with Path(path).open("rb") as file, Image.open(file) as image:
            bounds.require(image.size)
    except Exception as error:
        return str(_damaged(path, error))
    return None


def header_problems(paths: Iterable[str], bounds: Bounds) -> dict[str, str]:
    """Return the images whose headers show that they can't be used, with the reasons, in the order of ``paths``."""
    known = list(paths)
    with _unwarned(), ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda path: header_problem(path, bounds), known)
        return {path: reason for path, reason in zip(known, found, strict=True) if reason is not None}


def hidden_folders(place: Path) -> list[str]:
    """Return the names of hidden folders in ``place`` (``.git``), sorted."""
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and entry.name.startswith("."))


Prepared = tuple[Tensor, int, dict[str, str]]
"""An image, the number of its class, and the images that could not be decoded in its place, with the reasons."""


class PreparedImages(Dataset[Prepared]):
    """Single prepared images, by (position in ``samples``, seed of the augmentation or None).

    Args:
        name: Registry name of the data set, for messages.
        samples: The images.
        bounds: Sizes that they must keep to.
        skip: Whether the next image that can be decoded takes the place of one that can't.
        fixed: Preparation of an image without a seed.
        random: Preparation of one with a seed.
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        bounds: Bounds,
        skip: bool,
        fixed: v2.Transform,
        random: v2.Transform,
    ) -> None:
        self.name = name
        self.samples = samples
        self.bounds = bounds
        self.skip = skip
        self.fixed = fixed
        self.random = random

    def _decoded(self, position: int) -> tuple[Image.Image, int, dict[str, str]]:
        damaged: dict[str, str] = {}
        for step in range(len(self.samples)):
            place, label = self.samples[(position + step) % len(self.samples)]
            try:
                return read_image(place, self.bounds), label, damaged
            except DamagedImageError as error:
                if not self.skip:
                    raise DataError(f"{self.name}: {error}; {REMEDY}") from error
                damaged[str(place)] = str(error)
        raise DataError(f"{self.name}: no image of a split can be decoded; the first: {next(iter(damaged.values()))}")

    def __getitem__(self, key: tuple[int, int | None]) -> Prepared:
        position, seed = key
        image, label, damaged = self._decoded(position)
        if seed is None:
            return self.fixed(image), label, damaged
        # v2 draws from torch's global generator: seed it for this image, and put it back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.random(image), label, damaged


def collate(prepared: Sequence[Prepared]) -> tuple[Tensor, Tensor, dict[str, str]]:
    """Return images ``(N, C, H, W)``, classes ``(N,)`` in int64, and all that could not be decoded, with the reasons."""
    images, labels = default_collate([(image, label) for image, label, _ in prepared])
    return images, labels, {path: reason for _, _, damaged in prepared for path, reason in damaged.items()}


def _damaged(path: str, error: Exception) -> DamagedImageError:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error
    # PIL names the file once more where it finds no format.
    reason = "in no format that PIL knows" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    return DamagedImageError(f"{path} can't be read as an image ({reason})")


def _unwarned() -> warnings.catch_warnings[None]:
    """Return a context without PIL's warnings of large images, which have a bound of their own here."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)
