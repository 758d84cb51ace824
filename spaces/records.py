"""Checks of recorded transformations, which may come from somebody else's file: types, ranges, and names that a network has."""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spaces.errors import SecateursError
from spaces.files.reading import shown


class RecordError(SecateursError):
    """A recorded transformation is not of the form that this version writes, or does not fit the network."""


def entries(record: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return the JSON object at ``key``.

    Raises:
        RecordError: There is something else; the message begins with ``where``.
    """
    found = record.get(key)
    if not isinstance(found, Mapping):
        raise RecordError(f"{where}: {key}: expected an object, got {shown(found)}")
    return found


def items(record: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    """Return the JSON list at ``key``.

    Raises:
        RecordError: There is something else; the message begins with ``where``.
    """
    found = record.get(key)
    if not isinstance(found, list | tuple):
        raise RecordError(f"{where}: {key}: expected a list, got {shown(found)}")
    return found


def integer(value: Any, low: int, high: int, where: str) -> int:
    """Return an integer from ``low`` to ``high``.

    Raises:
        RecordError: It is something else; the message begins with ``where``.
    """
    if type(value) is not int or not low <= value <= high:
        raise RecordError(f"{where}: expected an integer from {low} to {high}, got {shown(value)}")
    return value


def flag(value: Any, where: str) -> bool:
    """Return ``true`` or ``false``.

    Raises:
        RecordError: It is something else; the message begins with ``where``.
    """
    if not isinstance(value, bool):
        raise RecordError(f"{where}: expected true or false, got {shown(value)}")
    return value


def number(value: Any, where: str) -> float:
    """Return a finite number.

    Raises:
        RecordError: It is something else; the message begins with ``where``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(f"{where}: expected a finite number, got {shown(value)}")
    return float(value)


def amount(value: Any, where: str) -> float:
    """Return a finite number of at least 0.

    Raises:
        RecordError: It is something else; the message begins with ``where``.
    """
    if number(value, where) < 0.0:
        raise RecordError(f"{where}: expected a number of at least 0, got {shown(value)}")
    return float(value)


def name(value: Any, where: str) -> str:
    """Return a plain name, as a Python identifier: names in a traced network become code.

    Raises:
        RecordError: It is something else; the message begins with ``where``.
    """
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value) or len(value) > 500:
        raise RecordError(f"{where}: expected a plain name, got {shown(value)}")
    return value


def one_of(value: Any, known: Mapping[str, Any], where: str) -> str:
    """Return a name that ``known`` has, such as that of a module.

    Raises:
        RecordError: It has no such name; the message begins with ``where``.
    """
    if not isinstance(value, str) or value not in known:
        raise RecordError(f"{where}: the network has no {shown(value)}; was its factory changed since the run?")
    return value


def indices(values: Any, size: int, where: str) -> np.ndarray:
    """Return indices that stay of a dimension of ``size``, int64 of shape ``(kept,)``: inside it, and increasing.

    Raises:
        RecordError: They are something else; the message begins with ``where``.
    """
    found = np.asarray(values) if isinstance(values, list | tuple | np.ndarray) and len(values) <= size else np.asarray(None)
    if found.ndim != 1 or not len(found) or found.dtype.kind != "i" or found[0] < 0 or found[-1] >= size:
        raise RecordError(f"{where}: expected 1 to {size} indices from 0 to {size - 1}, got {shown(values)}")
    if len(found) > 1 and not bool((np.diff(found) > 0).all()):
        raise RecordError(f"{where}: expected increasing indices, got {shown(values)}")
    return found.astype(np.int64)
