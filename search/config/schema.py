"""Parse plain data into settings: every mistake with its place, an unknown name with the nearest known one."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from search.config.block import Block
from search.config.document import LARGEST_NUMBER, Document, Fault, Key, Path
from search.config.registries import Registered
from search.config.renamed import RENAMED_OPTIONS
from spaces.errors import SecateursError
from spaces.registry import suggestion


def validate(hint: Any, value: Any, document: Document, path: Path) -> tuple[Any, list[Fault]]:
    """Return ``value`` as the type ``hint``, and its faults; with a fault the first is None.

    Args:
        hint: A frozen dataclass, or an annotation of :mod:`search.config.registries`.
        value: Plain data, as read from the file.
        document: The configuration.
        path: Path of ``value`` in it.
    """
    try:
        parsed = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        details = _of_entered(error.errors(include_url=False))
        return None, _merged([_translate(hint, value, detail, document, path) for detail in details])
    faults = [document.fault(place, message) for place, message in _coerced(value, parsed, path)]
    return (None, faults) if faults else (parsed, [])


def _of_entered(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Return the faults without those of the choices beside settings that were given: a mapping is meant for the settings."""

    def beside(detail: ErrorDetails) -> bool:
        place = detail["loc"][:-1]
        others = any(other is not detail and other["loc"][: len(place)] == place for other in details)
        return detail["type"] == "literal_error" and isinstance(detail["input"], Mapping) and others

    return [detail for detail in details if not beside(detail)]


def options_of(value: Any) -> tuple[str | None, Path, Any]:
    """Return the name that a block gives, the path below the block at which its options stand, and the options."""
    if isinstance(value, str):
        return value, (), {}
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), str):
            return value["name"], (), {key: option for key, option in value.items() if key != "name"}
        if len(value) == 1:
            ((name, options),) = value.items()
            return name, (name,), {} if options is None else options
    return None, (), {}


def _translate(hint: Any, value: Any, detail: ErrorDetails, document: Document, path: Path) -> Fault:
    kind, given = detail["type"], detail["input"]
    place, settings, rest = _locate(hint, value, detail["loc"])
    place = (*path, *place)
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    message = message.replace("expected greater", "expected a number greater").replace(
        "expected less", "expected a number less"
    )
    if kind in ("unexpected_keyword_argument", "extra_forbidden", "unexpected_positional_argument"):
        known = _keys(settings) if settings is not None else []
        key = str(detail["loc"][-1])
        if (now := RENAMED_OPTIONS.get(key)) in known:
            return document.fault((*place, *rest), f"was renamed: write {now!r} instead of {key!r}")
        return document.fault((*place, *rest), f"unknown key; {suggestion(key, known)}")
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return document.fault((*place, *rest), "is missing, and has no default")
    if kind == "value_error":
        named, colon, rest_of_message = message.partition(": ")
        field, _, key = named.partition(".")
        if colon and settings is not None and field in _keys(settings):
            return document.fault((*place, field, *([int(key) if key.isdigit() else key] if key else [])), rest_of_message)
        return document.fault(place, message)
    if kind == "literal_error":
        expected = detail.get("ctx", {}).get("expected", "").replace("False", "false").replace("True", "true")
        near = suggestion(str(given), expected.replace("'", "").replace(" or ", ", ").split(", "))
        return document.fault(place, f"{near.partition('known:')[0]}expected {expected}, got {given!r}")
    words = {
        "dataclass_type": f"expected a mapping with keys of: {', '.join(_keys(settings)) if settings else '...'}",
        "tuple_type": "expected a list",
        "dict_type": "expected a mapping",
        "string_type": "expected text",
        "int_from_float": "expected a whole number",
        "int_parsing": "expected a whole number",
        "int_parsing_size": "expected a whole number of at most 64 bits",
        "int_type": "expected a whole number",
        "float_parsing": "expected a number",
        "float_type": "expected a number",
        "bool_parsing": "expected true or false",
        "bool_type": "expected true or false",
    }
    return document.fault(place, f"{words.get(kind, message)}, got {_short(given)}")


def _locate(hint: Any, value: Any, location: Sequence[Key]) -> tuple[Path, type | None, Path]:
    """Follow ``location`` through the raw data.

    Returns:
        The path as far as it exists, the settings class there, and the rest, of which nothing stands in the data (a missing
        key, or a name that pydantic gives to a member of a union).
    """
    path: list[Key] = []
    settings, options, below = _enter(hint, value)
    path.extend(below)
    for position, key in enumerate(location):
        exists = (isinstance(options, Mapping) and key in options) or (
            isinstance(options, Sequence) and isinstance(key, int) and key < len(options)
        )
        if not exists and settings is not None and key == settings.__name__:
            continue  # The name that pydantic gives to a member of a union.
        if not exists:
            return tuple(path), settings, tuple(location[position:])
        path.append(key)
        inner = _hint_below(settings, hint, key)
        if position + 1 == len(location):
            owner = settings
            settings, _, _ = _enter(inner, options[key])
            return tuple(path), settings if settings is not None else owner, ()
        hint = inner
        settings, options, below = _enter(inner, options[key])
        path.extend(below)
    return tuple(path), settings, ()


def _enter(hint: Any, value: Any) -> tuple[type | None, Any, Path]:
    """Return the settings class that ``hint`` asks for, the options it is made from, and where in ``value`` they stand."""
    for member in _members(hint):
        registered = next((mark for mark in get_args(member) if isinstance(mark, Registered)), None)
        if registered is not None:
            name, below, options = options_of(value)
            try:
                return (registered.find(name).Settings if name else None), options, below
            except SecateursError:
                return None, options, below
        if isinstance(member, type) and is_dataclass(member):
            return member, value, ()
    return None, value, ()


def _members(hint: Any) -> tuple[Any, ...]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return get_args(hint)
    return (hint,)


def _hint_below(settings: type | None, hint: Any, key: Key) -> Any:
    if settings is not None and is_dataclass(settings):
        return typing.get_type_hints(settings, include_extras=True).get(str(key))
    for member in _members(hint):
        plain = get_args(member)[0] if get_origin(member) is Annotated else member
        arguments = get_args(plain)
        if arguments:
            return arguments[0] if isinstance(key, int) else arguments[-1]
    return None


def _keys(settings: type | None) -> list[str]:
    if settings is None or not is_dataclass(settings):
        return []
    return [entry.name for entry in fields(settings) if entry.init]


def _coerced(raw: Any, parsed: Any, path: Path) -> Iterable[tuple[Path, str]]:
    """Yield the places at which pydantic reads text as a number or a truth value as 1, and numbers that are not finite."""
    if isinstance(parsed, Block):
        _, below, raw = options_of(raw)
        path, parsed = (*path, *below), parsed.settings
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            inner = parsed.get(key) if isinstance(parsed, Mapping) else getattr(parsed, str(key), None)
            yield from _coerced(value, inner, (*path, key))
    elif isinstance(raw, list):
        items = list(parsed) if isinstance(parsed, Sequence | set | frozenset) and not isinstance(parsed, str) else []
        for index, value in enumerate(raw):
            yield from _coerced(value, items[index] if len(items) == len(raw) else None, (*path, index))
    elif isinstance(raw, float) and not math.isfinite(raw):
        yield path, f"expected a finite number, got {raw}"
    elif isinstance(parsed, int) and abs(parsed) > LARGEST_NUMBER:
        yield path, f"expected a whole number of at most 64 bits, got {_short(raw)}"
    elif parsed is not None and (asked := _sort(parsed)) and asked != _sort(raw):
        yield path, f"expected {asked}, got {_short(raw)}"


def _sort(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else ""


def _merged(faults: list[Fault]) -> list[Fault]:
    """Join the faults that pydantic reports for each member of a union into one fault."""
    joined: dict[tuple[Path, str], Fault] = {}
    for fault in faults:
        got = fault.message.rpartition(", got ")[2]
        key = (fault.path, got)
        if key in joined and ", got " in fault.message:
            first = joined[key].message.rpartition(", got ")[0]
            words = fault.message.rpartition(", got ")[0].removeprefix("expected ")
            fault = Fault(fault.path, f"{first} or {words}, got {got}", fault.origin)
        joined[key] = fault
    return list(joined.values())


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
