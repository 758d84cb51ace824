"""Places of the samples in tar archives, found by their headers; nothing is extracted, and names lead nowhere."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

CLASS_BYTES = 20
"""Most bytes of a class number."""

MOST_CLASSES = 1_000_000
SHOWN = 3
"""Samples of an archive that are named, of those that can't be used; all are counted."""


@dataclass(frozen=True)
class ShardIndex:
    """Samples of one archive, in its order.

    Attributes:
        samples: First byte, number of bytes and class of every image, int64 of shape ``(N, 3)``.
        problems: Number of samples that can't be used.
        reasons: Names of the first of them, with the reasons.
        damage: Reason why the archive can't be read to its end, or empty.
    """

    samples: npt.NDArray[np.int64]
    problems: int
    reasons: tuple[str, ...]
    damage: str


@dataclass
class _Sample:
    """Files of one key, as they come."""

    key: str
    images: list[tuple[int, int]] = field(default_factory=list)
    classes: list[bytes] = field(default_factory=list)

    def problem(self, most_bytes: int) -> str:
        """Return the reason why this is no image with a class, or nothing where it is one."""
        if len(self.images) != 1 or len(self.classes) != 1:
            return f"expected one image and one .cls, got {len(self.images)} and {len(self.classes)}"
        if self.images[0][1] > most_bytes:
            return f"an image of {self.images[0][1]:,} bytes, expected at most {most_bytes:,}: data.most_pixels"
        text = self.classes[0].strip()
        if not (text.isdigit() and int(text) < MOST_CLASSES):
            return f"expected a number from 0 to below {MOST_CLASSES:,} in .cls, got {text.decode(errors='replace')!r}"
        return ""


def read_index(path: Path, endings: tuple[str, ...], most_bytes: int) -> ShardIndex:
    """Return the samples of an archive: files in a row whose names are equal up to the first dot are one.

    Args:
        path: The archive, not compressed.
        endings: Endings of images, in lower case, each with its dot.
        most_bytes: Most bytes of an image.
    """
    rows: list[tuple[int, int, int]] = []
    problems, reasons, damage = 0, list[str](), ""
    try:
        with path.open("rb") as file:
            for sample in _samples(file, endings):
                if problem := sample.problem(most_bytes):
                    problems += 1
                    if len(reasons) < SHOWN:
                        reasons.append(f"{path}: {sample.key!r}: {problem}")
                else:
                    rows.append((*sample.images[0], int(sample.classes[0])))
    except (tarfile.TarError, EOFError, ValueError) as error:
        damage = f"{path}: no tar archive, or damaged behind {len(rows)} samples ({error})"
    return ShardIndex(np.array(rows, dtype=np.int64).reshape(-1, 3), problems, tuple(reasons), damage)


def _samples(file: BinaryIO, endings: tuple[str, ...]) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in _members(file):
        folder, slash, name = member.name.rpartition("/")
        stem, dot, ending = name.partition(".")
        if not member.isreg() or member.issparse() or not stem or not dot:
            continue
        key = f"{folder}{slash}{stem}"
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if f".{ending}".lower().endswith(endings):
            sample.images.append((member.offset_data, member.size))
        elif ending.lower() == "cls":
            file.seek(member.offset_data)
            sample.classes.append(file.read(min(member.size, CLASS_BYTES)))
    if sample is not None:
        yield sample


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of an archive, every one whole.

    Raises:
        tarfile.TarError: It is none.
        EOFError: It ends, or its headers do, before the blocks of zeros that end an archive.
    """
    end = file.seek(0, 2)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            if member.offset_data + member.size > end:
                raise EOFError(f"{member.name!r} ends behind the archive")
            yield member
            # They would all be kept.
            archive.members.clear()  # type: ignore[attr-defined]
        # A damaged header looks to tarfile like the end.
        file.seek(archive.offset)
        last = file.read(tarfile.BLOCKSIZE)
    if len(last) < tarfile.BLOCKSIZE or last.strip(b"\0"):
        raise EOFError(f"no header and no end at byte {archive.offset}")
