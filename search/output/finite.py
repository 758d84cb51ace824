"""Numbers that JSON does not know: NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def without_non_finite(data: Any, place: str = "") -> tuple[Any, list[tuple[str, float]]]:
    """Return JSON data with None in place of every number that is not finite, and these numbers with their places.

    Args:
        data: The data; left unchanged.
        place: Keys and indices that lead to ``data``, such as ``histories.0.epochs.3.loss``.
    """
    if isinstance(data, float) and not math.isfinite(data):
        return None, [(place, data)]
    if isinstance(data, Mapping):
        entries = {key: without_non_finite(value, f"{place}.{key}".lstrip(".")) for key, value in data.items()}
        return {key: found for key, (found, _) in entries.items()}, [one for _, bad in entries.values() for one in bad]
    if isinstance(data, list | tuple):
        items = [without_non_finite(value, f"{place}.{index}".lstrip(".")) for index, value in enumerate(data)]
        return [found for found, _ in items], [one for _, bad in items for one in bad]
    return data, []
