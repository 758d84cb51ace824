"""architecture.json: the record that a network's structure is rebuilt from, checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spaces.files.json_file import unpack_record
from spaces.files.reading import FileError, shown
from spaces.transformation import TRANSFORMATIONS

FORMAT = 1
MAX_TRANSFORMATIONS = 10_000
"""Most transformations in one record, those inside sequences included (ours: a run has a handful)."""


@dataclass(frozen=True)
class Architecture:
    """A recorded structure.

    Attributes:
        task: What the original network is rebuilt from; None where the file does not say.
        transformations: JSON data of every change of structure, in order.
    """

    task: Any
    transformations: tuple[dict[str, Any], ...]


def parse_architecture(content: bytes, name: str) -> Architecture:
    """Return what ``architecture.json`` holds.

    Raises:
        FileError: It is damaged, of another format, or names a transformation that is not known.
    """
    data = unpack_record(content, name)
    if data.get("format") != FORMAT:
        raise FileError(f"{name}: expected format {FORMAT}, got {shown(data.get('format'))}")
    transformations = data.get("transformations")
    if not isinstance(transformations, list):
        raise FileError(f"{name}: transformations: expected a list, got {shown(transformations)}")
    check_transformations(transformations, name)
    return Architecture(data.get("task"), tuple(transformations))


def check_transformations(transformations: list[Any], name: str) -> None:
    """Raise if recorded changes of structure are of no known kind, or too many.

    Args:
        transformations: JSON data of the changes, in order.
        name: Name of their file, with which the message begins.

    Raises:
        FileError: One is.
    """
    _check(transformations, name, [0])


def _check(transformations: list[Any], name: str, count: list[int]) -> None:
    for transformation in transformations:
        count[0] += 1
        if count[0] > MAX_TRANSFORMATIONS:
            raise FileError(f"{name}: transformations: expected at most {MAX_TRANSFORMATIONS:,}")
        kind = transformation.get("kind") if isinstance(transformation, Mapping) else transformation
        if not isinstance(transformation, Mapping) or not isinstance(kind, str) or kind not in TRANSFORMATIONS:
            kinds = ", ".join(TRANSFORMATIONS)
            raise FileError(f"{name}: transformations: expected objects whose kind is one of {kinds}, got {shown(kind)}")
        if kind == "sequence":
            steps = transformation.get("steps")
            if not isinstance(steps, list):
                raise FileError(f"{name}: transformations: steps: expected a list, got {shown(steps)}")
            _check(steps, name, count)
