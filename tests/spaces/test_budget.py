"""A budget shared among layers."""

from __future__ import annotations

import numpy as np
import pytest

from spaces.budget import share_budget

SIZES = np.asarray([10, 20, 40])
PRICES = np.asarray([4.0, 2.0, 1.0])


def shared(budget: float, step: int = 1) -> np.ndarray:
    def amounts(factor: float) -> np.ndarray:
        return np.minimum(SIZES, np.floor(factor * SIZES + 1e-9).astype(np.int64) // step * step)

    return share_budget(
        amounts, 1.0, lambda kept: float(PRICES @ kept), budget, lambda kept, factor: kept - factor * SIZES, SIZES, step
    )


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("budget", [0.0, 7.0, 60.0, 61.0, 100.0, 119.0])
def test_amounts_keep_to_the_budget_and_nothing_more_fits(budget: float, step: int) -> None:
    kept = shared(budget, step)
    assert PRICES @ kept <= budget
    # Every layer was asked once, in turn, so the last one asked can take no more.
    assert any(kept[i] == SIZES[i] or PRICES @ kept + PRICES[i] * step > budget for i in range(3))
    assert budget - PRICES @ kept < PRICES.max() * step


def test_amounts_are_in_proportion_before_they_are_filled_up() -> None:
    assert shared(60.0).tolist() == [5, 10, 20]
    assert shared(120.0).tolist() == [10, 20, 40]
    assert shared(0.0).tolist() == [0, 0, 0]


def test_what_is_left_goes_to_the_most_urgent_first() -> None:
    # 61 in proportion is 5.08, 10.17, 20.33: the last is furthest below its share, and the one unit left is what it costs.
    assert shared(61.0).tolist() == [5, 10, 21]
