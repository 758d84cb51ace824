"""``key=value`` overrides of a configuration, by dotted path."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from search.config.document import Document, Fault, Path, dotted, parse_value


def apply_overrides(document: Document, overrides: Sequence[str]) -> list[Fault]:
    """Write ``overrides`` into ``document`` and return their faults.

    A path leads through keys, list positions and the names of list entries: ``stages.2.search.algorithm.population=8``,
    ``stages.search.algorithm.population=8`` and ``stages.2.algorithm.population=8`` say the same. The value is YAML. A key
    that the file leaves to its default is added; whether there is such a key, the configuration's own check says.
    """
    faults: list[Fault] = []
    for override in overrides:
        origin = f"override {override!r}"
        text_path, equals, text_value = override.partition("=")
        keys = [key.strip() for key in text_path.split(".")]
        if not equals or not all(keys):
            faults.append(Fault((), "expected key=value, such as stages.search.algorithm.generations=3", origin))
            continue
        try:
            _write(document, keys, _value(text_value), origin)
        except ValueError as error:
            faults.append(Fault((), str(error), origin))
    return faults


def _value(text: str) -> Any:
    """Return an override's value; text that YAML would take for the head of a block of lines stays text, as in ``>= 30%``."""
    return text.strip() if text.lstrip().startswith((">", "|")) else parse_value(text)


def _write(document: Document, keys: list[str], value: Any, origin: str) -> None:
    container: Any = document.data
    path: Path = ()
    remaining = list(keys)
    while len(remaining) > 1:
        container, path = _step(container, path, remaining.pop(0), remaining[0])
    last = remaining[0]
    if isinstance(container, list):
        index = _position(container, path, last)
        named = not last.isdigit()
        container[index] = {last: value} if named else value
        path = (*path, index, last) if named else (*path, index)
    elif isinstance(container, dict):
        container[last] = value
        path = (*path, last)
    else:
        raise ValueError(_not_nested(path, container))
    for below in [known for known in document.origins if known[: len(path)] == path]:
        del document.origins[below]
    document.origins[path] = origin


def _step(container: Any, path: Path, key: str, following: str) -> tuple[Any, Path]:
    """Return the entry one key down and its path; a key that the file leaves out is added as an empty mapping."""
    if isinstance(container, list):
        index = _position(container, path, key)
        entry = container[index]
        path = (*path, index)
        name = entry if isinstance(entry, str) else _single_key(entry)
        if name is None:
            return entry, path
        if isinstance(entry, str) or entry[name] is None:
            entry = container[index] = {name: {}}
        descend = not key.isdigit() or following != name
        return (entry[name], (*path, name)) if descend else (entry, path)
    if isinstance(container, dict):
        if container.get(key) is None:
            container[key] = {}
        return container[key], (*path, key)
    raise ValueError(_not_nested(path, container))


def _position(entries: list[Any], path: Path, key: str) -> int:
    if key.isdigit():
        if int(key) >= len(entries):
            raise ValueError(f"{dotted(path)} has entries 0 to {len(entries) - 1}, there is no {key}")
        return int(key)
    names = [entry if isinstance(entry, str) else _single_key(entry) for entry in entries]
    found = [index for index, name in enumerate(names) if name == key]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{dotted(path)} has {len(found)} entries {key!r}; give the position, one of {found}")
    known = [name for name in names if name]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{dotted(path)} has no entry {key!r}; {question}entries: {', '.join(known)}")


def _single_key(entry: Any) -> str | None:
    return next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else None


def _not_nested(path: Path, value: Any) -> str:
    return f"{dotted(path)} is {value!r}, which has no keys below it"
