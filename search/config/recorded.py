"""A configuration in the form of a record that an earlier version may have written, before some of its options were there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from search.config.loading import Config, read_back

Place = tuple[str | int, ...]


def as_recorded(config: Config, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as plain data, without options that a record does not know and that are at their default.

    An option is at its default where the configuration without it reads to the same.

    Args:
        config: The configuration.
        recorded: The configuration that a run folder has, as plain data.
    """
    whole = config.canonical()
    unknown = list(_unknown(recorded, whole, ()))
    if not unknown:
        return whole
    without = deepcopy(whole)
    for *above, key in unknown:
        del _at(without, above)[key]
    again = read_back(config, without)
    if again is None:
        return whole
    for *above, key in unknown:
        value = _at(whole, above)[key]
        if _at(again, above).get(key) != value or key not in _at(again, above):
            _at(without, above)[key] = value
    return without


def _unknown(recorded: Any, whole: Any, place: Place) -> Iterator[Place]:
    """Yield the places in ``whole`` of keys that ``recorded`` lacks, where both are of the same stage or block."""
    if isinstance(recorded, Mapping) and isinstance(whole, Mapping):
        if recorded.get("name") != whole.get("name") and place:
            return
        for key, value in whole.items():
            if key in recorded:
                yield from _unknown(recorded[key], value, (*place, key))
            elif place[:1] != ("stages",) or len(place) > 2:
                yield (*place, key)
    elif isinstance(recorded, list) and isinstance(whole, list):
        for index, (first, second) in enumerate(zip(recorded, whole, strict=False)):
            yield from _unknown(first, second, (*place, index))


def _at(data: Any, place: list[str | int]) -> Any:
    for key in place:
        data = data[key]
    return data
