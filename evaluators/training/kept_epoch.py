"""Epoch whose weights a training hands on: the best one on the search split where its lead says something, or the last."""

from __future__ import annotations

import math
from typing import Literal

from evaluators.task import Task

KeepEpoch = Literal["auto", "best", "last"]

MARGIN = 0.02
"""Share of itself by which a score without a standard error must differ to be clearly another (ours)."""


def clearly_better(one: float, other: float, samples: int | None) -> bool:
    """Return True if one score leads another by more than two standard errors of the difference, or the other is no number.

    Args:
        one: A score, higher is better.
        other: The score that it is compared with.
        samples: Samples that both are means over, of values from 0 to 1; None for another score, which must differ by
            :data:`MARGIN` of itself.
    """
    if math.isnan(one) or math.isnan(other):
        return not math.isnan(one)
    if samples is None:
        return other < one - MARGIN * abs(one)
    errors = [math.sqrt(max(abs(value) * (1.0 - abs(value)), 0.0) / samples) for value in (one, other)]
    return other < one - 2 * math.hypot(*errors)


def samples_of_score(task: Task) -> int | None:
    """Return the samples of the search split for a score that is a mean of values from 0 to 1; None for another score."""
    described = task.score_metrics.get(task.score_name)
    return task.size("search") if described is not None and described.percent else None
