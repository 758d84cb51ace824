"""Settings compared with a record that an earlier version may have written, before some of their options were there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any


def as_recorded(settings: Any, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as plain data, without options that a record does not know and that are at their default.

    Args:
        settings: An instance of a dataclass.
        recorded: The settings that a file has, plain data.
    """
    found: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        inner = recorded.get(field.name)
        if field.name not in recorded and _is_default(field, value):
            continue
        if is_dataclass(value) and not isinstance(value, type) and isinstance(inner, Mapping):
            found[field.name] = as_recorded(value, inner)
        else:
            found[field.name] = asdict(settings)[field.name]
    return found


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default is not MISSING:
        return bool(value == field.default)
    return field.default_factory is not MISSING and bool(value == field.default_factory())
