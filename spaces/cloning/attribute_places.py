"""Places in attributes: all of ``splits``, one number of a list, ``splits[2]``, or one of an object, ``config.width``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def value_at(held: Mapping[str, Any], place: str) -> Any:
    """Return what ``held``, attributes by name, has at a place; None where there is none."""
    name, index, inner = _parts(place)
    value = held.get(name)
    if inner:
        return vars(value).get(inner) if type(value).__dictoffset__ else None
    if index is None:
        return value
    return value[index] if isinstance(value, list | tuple) and index < len(value) else None


def set_at(held: dict[str, Any], place: str, value: Any) -> None:
    """Set a place of ``held``; a list or tuple is made anew."""
    name, index, inner = _parts(place)
    if inner:
        setattr(held[name], inner, value)
        return
    if index is not None:
        items = list(held[name])
        items[index] = value
        value = type(held[name])(items)
    held[name] = value


def _parts(place: str) -> tuple[str, int | None, str]:
    """Return the attribute, the place in its list, None for none, and the attribute of its object, empty for none."""
    name, bracket, index = place.partition("[")
    if bracket and index[:-1].isdecimal():
        return name, int(index[:-1]), ""
    name, _, inner = place.partition(".")
    return name, None, inner
