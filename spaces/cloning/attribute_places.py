"""Places in attributes: the attribute ``splits`` whole, or ``splits[2]``, one number of a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def value_at(held: Mapping[str, Any], place: str) -> Any:
    """Return what ``held``, attributes by name, has at a place; None where there is none."""
    name, index = _parts(place)
    value = held.get(name)
    if index is None:
        return value
    return value[index] if isinstance(value, list | tuple) and index < len(value) else None


def set_at(held: dict[str, Any], place: str, value: Any) -> None:
    """Set a place of ``held``; a list or tuple is made anew."""
    name, index = _parts(place)
    if index is not None:
        items = list(held[name])
        items[index] = value
        value = type(held[name])(items)
    held[name] = value


def _parts(place: str) -> tuple[str, int | None]:
    name, bracket, index = place.partition("[")
    return (name, int(index[:-1])) if bracket and index[:-1].isdecimal() else (place, None)
