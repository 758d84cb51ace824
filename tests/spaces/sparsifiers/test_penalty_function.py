"""Penalty functions, and the probabilities that follow from them: the method's derived properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.errors import SecateursError
from spaces.sparsifiers.participation import Participation, PrunedLayer, ascending_ranks, number_to_prune, updates_needed
from spaces.sparsifiers.penalty_function import (
    PENALTY_FUNCTIONS,
    CentreSymmetricExponential,
    PenaltyFunction,
    make_penalty_function,
    require_properties,
)

A, U = 0.05, 0.25
sizes = st.integers(2, 4096)
ratios = st.floats(1e-4, 0.9999)
amplitudes = st.floats(1e-3, 1.0)
heights = st.floats(0.01, 1.0)


@given(sizes, ratios, amplitudes, heights)
def test_the_exponential_has_its_properties_without_overflow(size: int, ratio: float, largest: float, flatness: float) -> None:
    number = number_to_prune(size, ratio)
    assert 1 <= number <= size - 1
    delta = CentreSymmetricExponential(largest, flatness)
    with np.errstate(over="raise", invalid="raise"):
        values = delta(np.arange(size), number)
    assert np.isfinite(values).all()
    assert values[0] == pytest.approx(largest, rel=1e-9)
    assert abs(delta(np.asarray([number]), number)[0]) <= 1e-12
    assert (np.diff(values) <= 1e-12).all()
    assert (values[:number] > 0.0).all()
    assert (values[number + 1 :] < 0.0).all()


@given(st.integers(1, 4096), amplitudes, heights, st.floats(0.0, 1.0))
def test_the_exponential_is_symmetric_about_its_centre(number: int, largest: float, flatness: float, share: float) -> None:
    delta = CentreSymmetricExponential(largest, flatness)
    centre = -math.log(flatness) * number / (math.log(2) - math.log(flatness))
    away = share * centre
    left, middle, right = delta(np.asarray([centre - away, centre, centre + away]), number)
    assert middle == pytest.approx(flatness * largest, rel=1e-6)
    assert left + right == pytest.approx(2 * flatness * largest, rel=1e-6)


def test_a_layer_is_done_in_the_updates_that_the_derivation_gives() -> None:
    assert updates_needed(512, 256, CentreSymmetricExponential(A, U)) == 150


def test_ranks_over_all_groups_would_take_for_ever() -> None:
    delta = CentreSymmetricExponential(A, U)
    p, updates = np.ones(512), 0
    while (p > 0).sum() > 256:
        alive = p > 0
        p[alive] = np.clip(p[alive] - delta(np.arange(512)[alive], 256), 0.0, 1.0)
        updates += 1
    assert updates == 4945


@pytest.mark.parametrize(("size", "ratio", "number"), [(10, 0.5, 5), (10, 0.3, 3), (3, 0.5, 2), (3, 0.99, 2), (8, 0.0, 0)])
def test_the_number_to_prune_is_rounded_up_and_leaves_one(size: int, ratio: float, number: int) -> None:
    assert number_to_prune(size, ratio) == number


@pytest.mark.parametrize("name", list(PENALTY_FUNCTIONS))
def test_claim_3_every_registered_function_has_the_claimed_properties(name: str) -> None:
    """Claim 3, with its deviation: the author's function is 0, not below, at the number of groups to prune itself."""
    function = make_penalty_function(name, A, U)
    values = function(np.arange(20), 8)
    assert (np.diff(values) <= 1e-12).all()
    assert (values[:8] > 0).all()
    assert values[8] <= 1e-12
    assert (values[9:] < 0).all()


class Broken(PenaltyFunction):
    def __init__(self, change: str) -> None:
        super().__init__(A, U)
        self.change = change

    def __call__(self, ranks: np.ndarray, number: int) -> np.ndarray:
        values = self.largest * (1.0 - np.asarray(ranks, dtype=float) / number)
        if self.change == "rises":
            return np.where(ranks == 1, 2.0 * self.largest, values)
        if self.change == "late":
            return values + 0.01 * self.largest
        if self.change == "early":
            return values - 1.1 * self.largest / number
        if self.change == "flat":
            return np.maximum(values, 0.0)
        return np.where(ranks == 2, np.nan, values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rises", "at most its value at the rank before"),
        ("late", "at most 1e-12, at the number"),
        ("early", "above 0, below the number"),
        ("flat", "below 0, above the number"),
        ("nan", "a finite number"),
    ],
)
def test_claim_3_a_function_without_a_property_is_refused(change: str, words: str) -> None:
    with pytest.raises(SecateursError, match=f"Broken at rank .*{words}"):
        require_properties(Broken(change))


def test_an_unknown_penalty_names_the_nearest() -> None:
    with pytest.raises(SecateursError, match="did you mean 'exponential'"):
        make_penalty_function("exponental", A, U)


def participation(*layers: tuple[int, int]) -> Participation:
    offsets = np.cumsum([0, *(size for size, _ in layers)])
    made = [PrunedLayer(f"l{i}", int(offsets[i]), size, number) for i, (size, number) in enumerate(layers)]
    return Participation(made, CentreSymmetricExponential(A, U))


def test_claim_1_the_least_important_groups_go_until_the_layer_has_its_ratio() -> None:
    """Claim 1: every group has a probability, 1 at first, that moves by importance; the layer stops at its pruning ratio."""
    state = participation((16, 6), (8, 0), (4, 3))
    scores = np.random.default_rng(0).permutation(28).astype(float)
    assert (state.p == 1.0).all()
    step = 0
    while not state.done:
        before = state.p.copy()
        state.update(scores, step := step + 1)
        # p = 0 is for good, and a finished layer is left alone.
        assert (state.p[before == 0.0] == 0.0).all()
        assert (state.p[16:24] == 1.0).all()
        assert ((state.p >= 0.0) & (state.p <= 1.0)).all()
    for block, number in ((slice(0, 16), 6), (slice(24, 28), 3)):
        gone = state.p[block] == 0.0
        assert gone.sum() == number
        assert set(np.flatnonzero(gone)) == set(np.argsort(scores[block])[:number])
        assert (state.p[block][~gone] == 1.0).all()


def test_ranks_are_averaged_over_the_updates() -> None:
    state, last = participation((6, 2)), participation((6, 2))
    first = np.asarray([0.0, 1, 2, 3, 4, 5])
    for step in range(5):
        state.update(first, step)
    # One update in which another group is the least important does not change the order of the averages.
    state.update(np.asarray([5.0, 1, 2, 3, 4, 0]), 6)
    for step in range(6):
        last.update(first, step)
    assert state.p.argmin() == last.p.argmin() == 0
    assert np.array_equal(state.p, last.p)


def test_what_is_missing_goes_by_lowest_probability() -> None:
    state = participation((10, 4))
    for step in range(5):
        state.update(np.arange(10.0), step)
    lowest = set(np.argsort(state.p, kind="stable")[:4])
    assert not state.done
    state.finish(6)
    assert set(np.flatnonzero(state.p == 0.0)) == lowest == {0, 1, 2, 3}
    assert state.done


def test_the_history_stays_short_and_goes_through_a_state() -> None:
    state = participation((16, 8))
    rng = np.random.default_rng(1)
    for step in range(120):
        state.update(rng.random(16), step)
    record = state.record()
    assert len(record["steps"]) == len(record["values"]) <= 64
    assert record["layers"] == ["l0"]
    again = participation((16, 8))
    again.load_state_dict(state.state_dict())
    assert again.record() == record
    scores = rng.random(16)
    state.update(scores, 121)
    again.update(scores, 121)
    assert np.array_equal(again.p, state.p)
    assert again.record() == state.record()


def test_ties_fall_to_the_earlier_group() -> None:
    assert ascending_ranks(np.asarray([2.0, 1.0, 1.0])).tolist() == [2, 0, 1]
