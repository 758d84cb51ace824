"""Save tensors and JSON data in one file that is replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from spaces.errors import SecateursError
from spaces.files.atomic import replace_file
from spaces.files.reading import FileError, opened
from spaces.files.tensor_file import pack_tensors, unpack_tensors

JSON = Any
Read = TypeVar("Read")


class CheckpointError(SecateursError):
    """A checkpoint cannot be read, or belongs to another training."""


class Checkpoint(Protocol):
    """Storage of a training's state: a file, or a worker's connection to the driver."""

    @property
    def on_disk(self) -> bool:
        """True if :meth:`save` writes a file in this process, so that a full disk is an error here."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, JSON]] | None:
        """Return the last saved state, or None before the first."""

    def save(self, tensors: Mapping[str, Tensor], data: Mapping[str, JSON]) -> None:
        """Replace the saved state."""


def pack_checkpoint(tensors: Mapping[str, Tensor], data: Mapping[str, JSON]) -> bytes:
    """Return a safetensors file of ``tensors``, with ``data`` and a digest in its metadata."""
    return pack_tensors(tensors, data)


def unpack_checkpoint(content: bytes) -> tuple[dict[str, Tensor], dict[str, JSON]]:
    """Return the tensors and the data of a file of :func:`pack_checkpoint`.

    Raises:
        CheckpointError: ``content`` is no such file, or is damaged.
    """
    try:
        return unpack_tensors(content, "the file")
    except FileError as error:
        raise CheckpointError(f"this is not a readable training checkpoint ({error})") from error


class FileCheckpoint:
    """A checkpoint in one safetensors file, the JSON data in its metadata.

    A kill at any moment leaves the last complete file in place. A damaged file counts as none.

    Args:
        path: The file.
        tell: Takes a line about a damaged file; without it, one is an error.
    """

    on_disk = True

    def __init__(self, path: str | os.PathLike[str], tell: Callable[[str], None] | None = None) -> None:
        """Keep the path; nothing is read or written before :meth:`load` or :meth:`save`."""
        self.path = Path(path)
        self._tell = tell

    def load(self) -> tuple[dict[str, Tensor], dict[str, JSON]] | None:
        """Return the tensors and the data of the file, or None if there is no file.

        Raises:
            CheckpointError: The file is damaged, and there is nobody to tell.
        """
        return self._read(unpack_checkpoint)

    def packed(self) -> bytes | None:
        """Return the bytes of the file, or None if there is no file.

        Raises:
            CheckpointError: The file is damaged, and there is nobody to tell.
        """

        def whole(content: bytes) -> bytes:
            unpack_checkpoint(content)
            return content

        return self._read(whole)

    def _read(self, take: Callable[[bytes], Read]) -> Read | None:
        try:
            with opened(self.path) as file:
                return take(file.read())
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            if self._tell is None:
                raise CheckpointError(f"{self.path}: {error}; remove it to train from the start") from error
            self._tell(f"{self.path}: {error}")
            return None

    def save(self, tensors: Mapping[str, Tensor], data: Mapping[str, JSON]) -> None:
        """Write a new file and replace the old one by it."""
        self.replace(pack_checkpoint(tensors, data))

    def replace(self, content: bytes) -> None:
        """Replace the file by the bytes ``content``, made by :func:`pack_checkpoint`."""
        replace_file(self.path, content)


def require_same(saved: JSON, current: JSON, place: str = "") -> None:
    """Compare the identities of two trainings field by field.

    Raises:
        CheckpointError: The identities differ; the message names the first field that does.
    """
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(saved.keys() | current.keys()):
            require_same(saved.get(key), current.get(key), f"{place}.{key}" if place else str(key))
    elif saved != current:
        raise CheckpointError(
            f"the training checkpoint was made with {place} = {_short(saved)} and now it is {_short(current)}; "
            "give the old value back, or start in a new run folder"
        )


def _short(value: JSON) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
