"""Compute the learning rate of a step, as a pure function."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["one_cycle", "cosine", "constant"]

ONE_CYCLE_START = 1 / 25


def learning_rate_factor(schedule: Schedule, step: int, total_steps: int, warmup: float) -> float:
    """Return the learning rate of ``step`` as a share of the highest, in (0, 1].

    ``one_cycle`` rises on a cosine from 1/25 and falls on a cosine to almost 0 (Smith, Topin 2018, arXiv 1708.07120,
    momentum held constant); ``cosine`` rises on a line and falls on a cosine (Loshchilov, Hutter 2017, arXiv
    1608.03983); ``constant`` rises on a line and stays.

    Args:
        schedule: The schedule's name.
        step: Optimizer step, from 0.
        total_steps: Number of optimizer steps of the whole training.
        warmup: Share of the steps in which the rate rises.
    """
    step = min(step, total_steps - 1)
    rising = round(warmup * total_steps)
    if step < rising:
        progress = (step + 1) / rising
        if schedule == "one_cycle":
            return 1.0 - (1.0 - ONE_CYCLE_START) * (1.0 + math.cos(math.pi * progress)) / 2
        return progress
    if schedule == "constant":
        return 1.0
    progress = (step - rising) / max(1, total_steps - rising)
    return (1.0 + math.cos(math.pi * progress)) / 2
