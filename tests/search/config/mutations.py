"""Mutations of shipped configurations: one thing in each made wrong, always the same ones."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from search.config.document import read_document
from search.config.task_config import has_own_scores
from tests.paths import CONFIGS

Place = tuple[str | int, ...]
FREE = ("arguments",)
"""Keys below which anything may stand."""
PATTERNS = ("weight_bits", "activation_bits", "ratios")
"""Keys below which name patterns stand."""
NEEDED = ("task", "model", "data", "factory", "epochs", "space", "algorithm", "evaluate", "objectives", "sparsifier")
"""Keys without a default."""


@dataclass(frozen=True)
class Mutation:
    """A configuration with one mistake.

    Attributes:
        name: The file, the mistake and where it was made.
        data: The configuration as plain data.
        place: Where the mistake is.
    """

    name: str
    data: dict[str, Any]
    place: Place


def places(value: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every place in plain data, and what stands there."""
    if path:
        yield path, value
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """Return a copy of ``data`` with another value at a place."""
    found = copy.deepcopy(data)
    holder: Any = found
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return found


def renamed(data: dict[str, Any], place: Place, key: str) -> dict[str, Any]:
    """Return a copy of ``data`` with another key at a place."""
    found = copy.deepcopy(data)
    holder: Any = found
    for step in place[:-1]:
        holder = holder[step]
    entries = [(key if name == place[-1] else name, value) for name, value in holder.items()]
    holder.clear()
    holder.update(entries)
    return found


def mutations(count: int, seed: int = 0) -> list[Mutation]:
    """Return ``count`` mutations, every kind of mistake at every kind of place at most once, of all kinds about as many."""
    rng = random.Random(seed)
    found: dict[str, list[Mutation]] = {kind: [] for kind in _KINDS}
    seen: set[tuple[str, Place]] = set()
    for path in rng.sample(CONFIGS, len(CONFIGS)):
        data = read_document(path).data
        options = [(place, value) for place, value in places(data) if not set(place[:-1]) & set(FREE)]
        for place, value in options:
            for kind, mutate in _KINDS.items():
                plain = kind, tuple(key for key in place if not isinstance(key, int))
                if plain not in seen and (wrong := mutate(data, place, value)) is not None:
                    seen.add(plain)
                    found[kind].append(Mutation(f"{path.stem}: {kind} at {'.'.join(map(str, place))}", wrong, place))
    for alike in found.values():
        rng.shuffle(alike)
    in_turn = [one for row in itertools.zip_longest(*found.values()) for one in row if one is not None]
    if len(in_turn) < count:
        raise ValueError(f"there are only {len(in_turn)} mutations")
    return in_turn[:count]


def _misspelt(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    key = place[-1]
    if "objectives" in place and has_own_scores(data["task"]):
        return None  # What such a task scores is known only once it is built.
    if set(place[:-1]) & set(PATTERNS):
        return None  # What a name pattern matches is known only once the network is built.
    return renamed(data, place, f"{key[:-1]}q{key[-1]}") if isinstance(key, str) and len(key) > 2 else None


def _of_another_type(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    if isinstance(value, bool | int | float):
        return replaced(data, place, "many")
    if isinstance(value, dict):
        return replaced(data, place, 3)
    return replaced(data, place, 7) if isinstance(value, list) and value else None


def _out_of_range(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    return replaced(data, place, -1) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _not_a_number(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    return replaced(data, place, float("nan")) if isinstance(value, float) else None


def _unknown(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    named = isinstance(value, str) and place != ("name",) and not set(place) & {"root", "checkpoint", "target", "exclude"}
    return replaced(data, place, f"{value[:-1]}zz{value[-1:]}") if named else None


def _missing(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any] | None:
    if place[-1] not in NEEDED:
        return None
    found = copy.deepcopy(data)
    holder: Any = found
    for key in place[:-1]:
        holder = holder[key]
    del holder[place[-1]]
    return found


_KINDS = {
    "misspelt": _misspelt,
    "of another type": _of_another_type,
    "out of range": _out_of_range,
    "not a number": _not_a_number,
    "unknown": _unknown,
    "missing": _missing,
}
