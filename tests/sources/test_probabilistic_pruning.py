"""CN109034372B and BMVC 2018, their printed formulas and the order of steps, against the same written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spaces.sparsifiers.participation import Participation, PrunedLayer, number_to_prune
from spaces.sparsifiers.penalty_function import make_penalty_function

A, U = 0.05, 0.25


def delta(rank: int, number: int) -> float:
    """Return the decrease of p at a rank, as claim 3 and the paper's equation print it."""
    alpha = (math.log(2) - math.log(U)) / number
    centre = -math.log(U) / alpha
    if rank <= centre:
        return A * math.exp(-alpha * rank)
    return 2 * U * A - A * math.exp(-alpha * (2 * centre - rank))


@pytest.mark.parametrize("number", [1, 2, 7, 40])
def test_the_penalty_is_the_printed_function(number: int) -> None:
    ranks = np.arange(3 * number + 2)
    found = make_penalty_function("exponential", A, U)(ranks, number)
    assert np.allclose(found, [delta(int(rank), number) for rank in ranks], rtol=1e-12, atol=1e-15)
    assert abs(delta(number, number)) < 1e-12


def ranks_of(values: list[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda place: (values[place], place))
    return [order.index(place) for place in range(len(values))]


def by_hand(scores: list[list[float]], number: int, over_all: bool) -> list[list[float]]:
    """Return p after every update of one layer: ranks averaged over updates, p <- max(min(p - Delta, 1), 0), R_l ends it."""
    size = len(scores[0])
    p, total, history = [1.0] * size, [0.0] * size, []
    for values in scores:
        gone = [place for place in range(size) if p[place] == 0.0]
        if len(gone) < number:
            ranked = list(range(size)) if over_all else [place for place in range(size) if p[place] > 0.0]
            for place, rank in zip(ranked, ranks_of([values[place] for place in ranked]), strict=True):
                total[place] += rank
            left = number if over_all else number - len(gone)
            for place, rank in zip(ranked, ranks_of([total[place] for place in ranked]), strict=True):
                if p[place] > 0.0:
                    p[place] = max(min(p[place] - delta(rank, left), 1.0), 0.0)
                    p[place] = 0.0 if p[place] < 1e-9 else p[place]
            if sum(value == 0.0 for value in p) >= number:
                p = [0.0 if value == 0.0 else 1.0 for value in p]
        history.append(list(p))
    return history


@pytest.mark.parametrize("over_all", [False, True])
def test_probabilities_are_updated_as_printed_until_every_layer_has_its_ratio(over_all: bool) -> None:
    sizes, ratio, updates = (5, 12), 0.5, 700
    numbers = [number_to_prune(size, ratio) for size in sizes]
    assert numbers == [3, 6]
    rng = np.random.default_rng(0)
    importance = [np.sort(rng.random(size)) for size in sizes]
    # The order of the groups stays: then no update can meet more groups at 0 than are to go, which no source speaks of.
    scores = [[np.abs(values + 0.001 * rng.random(len(values))) for values in importance] for _ in range(updates)]
    layers = [PrunedLayer("a", 0, 5, numbers[0]), PrunedLayer("b", 5, 12, numbers[1])]
    found = Participation(layers, make_penalty_function("exponential", A, U), "all" if over_all else "survivors")
    expected = [by_hand([list(step[place]) for step in scores], numbers[place], over_all) for place in range(2)]
    for number, step in enumerate(scores):
        found.update(np.concatenate(step), number + 1)
        assert np.allclose(found.p, expected[0][number] + expected[1][number], rtol=0.0, atol=1e-12)
    assert found.done
    assert [int((found.p[:5] == 0.0).sum()), int((found.p[5:] == 0.0).sum())] == numbers
