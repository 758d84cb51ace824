"""Format numbers for reading: magnitudes, bytes, percentages."""

from __future__ import annotations

import math

from evaluators.metrics import METRICS, find_metric, magnitude


def format_count(value: float | None) -> str:
    """Return a large number with its magnitude: ``40.8 M``."""
    return "-" if value is None else magnitude(value)


def format_bytes(value: float | None) -> str:
    """Return a number of bytes: ``1.09 MB``."""
    return "-" if value is None else METRICS["size_bytes"].text(value)


def format_percent(share: float | None) -> str:
    """Return a share in per cent: ``40.0 %``."""
    return "-" if share is None else f"{share * 100:.1f} %"


def points(share: float | None) -> str:
    """Return a difference of two shares in percentage points, signed: ``-0.31``."""
    return "-" if share is None else f"{share * 100:+.2f}"


def times(before: float | None, after: float | None) -> str:
    """Return the ratio of ``before`` to ``after``: ``2.50x``."""
    return "-" if not before or not after else f"{before / after:.2f}x"


def shows(before: float, after: float) -> bool:
    """Return whether the change of a cost, neither of which is 0, shows when it is told as a ratio: 1.00x does not."""
    return abs(before / after - 1.0) >= 0.005


def metric_value(name: str, value: float) -> str:
    """Return the value of the metric ``name``: bytes as a size, everything else with its magnitude."""
    return find_metric(name).brief(value)


def standard_error(score: float, samples: int) -> float:
    """Return the largest standard error of a mean of ``samples`` values in [0, 1]; for a share of hits it is exact."""
    return math.sqrt(max(score * (1.0 - score), 0.0) / samples)
