"""Rank correlation of two lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, None for fewer than three values or such as don't differ."""
    from scipy.stats import spearmanr

    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    value = float(spearmanr(first, second).statistic)
    return value if math.isfinite(value) else None
