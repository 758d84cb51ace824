import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.algorithms.encoding.channel_encoding import ChannelEncoding, UnreachableTargetError
from search.algorithms.encoding.repair import fit_to_targets, nearest_count
from search.algorithms.encoding.uniform import greedy
from tests.search.algorithms.synthetic_space import SyntheticSpace, problem_of


@st.composite
def situations(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    space = SyntheticSpace(sizes, draw(st.integers(1, 4)), draw(st.integers(1, 3)) if min(sizes) >= 3 else 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    target = draw(st.floats(0.05, 1.2))
    masks = [rng.random(size) < draw(st.floats(0.0, 1.0)) for size in sizes]
    scores = [rng.random(size) for size in sizes]
    return space, target, masks, scores, rng.lognormal(size=len(sizes)), draw(st.booleans()), draw(st.booleans())


@given(situations())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_repaired_masks_are_legal_under_the_target_and_leave_no_budget(situation):
    space, target, masks, scores, preference, per_cost, fill = situation
    try:
        encoding = ChannelEncoding(problem_of(space, target))
    except UnreachableTargetError:
        return
    before = [mask.copy() for mask in masks]
    repaired = fit_to_targets(encoding, masks, scores, limit=1.0, preference=preference, per_cost=per_cost, fill=fill)
    assert all(np.array_equal(a, b) for a, b in zip(masks, before, strict=True))
    space.validate(encoding.candidate(repaired))
    assert encoding.load(repaired) <= 1.0
    if not fill:
        return
    for layer, mask in enumerate(repaired):
        higher = encoding.counts[layer][encoding.counts[layer] > mask.sum()]
        if len(higher):
            grown = [*repaired]
            grown[layer] = encoding.strongest(layer, int(higher[0]))
            assert encoding.load(grown) > 1.0


def test_kept_channels_stay_and_the_weakest_go_first():
    encoding = ChannelEncoding(problem_of(SyntheticSpace([8]), 0.5))
    mask = np.array([True, True, True, True, True, True, False, False])
    scores = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 1.0, 1.0])
    (repaired,) = fit_to_targets(encoding, [mask], [scores], limit=1.0)
    assert repaired.tolist() == [True, False, True, False, True, True, False, False]


def test_the_strongest_removed_channels_come_back_first():
    encoding = ChannelEncoding(problem_of(SyntheticSpace([8]), 0.5))
    mask = np.array([True] + [False] * 7)
    scores = np.array([0.0, 0.1, 0.8, 0.2, 0.7, 0.3, 0.4, 1.0])
    (repaired,) = fit_to_targets(encoding, [mask], [scores], limit=1.0)
    assert np.flatnonzero(repaired).tolist() == [0, 2, 4, 7]


def test_without_a_limit_only_the_counts_change():
    encoding = ChannelEncoding(problem_of(SyntheticSpace([9, 8], multiple=4), 0.5))
    masks = [np.arange(9) < 7, np.arange(8) < 1]
    repaired = fit_to_targets(encoding, masks, encoding.ranks, limit=None)
    assert [int(mask.sum()) for mask in repaired] == [8, 4]


def test_a_repair_asks_for_few_costs(monkeypatch):
    encoding = ChannelEncoding(problem_of(SyntheticSpace([64] * 12), 0.4))
    rng = np.random.default_rng(0)
    asked = []
    original = SyntheticSpace.costs
    monkeypatch.setattr(SyntheticSpace, "costs", lambda self, candidate: asked.append(1) or original(self, candidate))
    for share in (0.2, 0.9):
        asked.clear()
        masks = [rng.random(64) < share for _ in range(12)]
        fit_to_targets(encoding, masks, encoding.ranks, limit=1.0, per_cost=True)
        assert len(asked) <= 2 * 12 + 50


@pytest.mark.parametrize(("count", "expected"), [(0, 4), (5, 4), (6, 8), (7, 8), (100, 10)])
def test_nearest_legal_count(count, expected):
    assert nearest_count(np.array([4, 8, 10]), count) == expected


def test_greedy_masks_between_uniform_and_global_are_all_at_the_limit():
    encoding = ChannelEncoding(problem_of(SyntheticSpace([16, 16, 32, 32]), 0.4))
    loads = [encoding.load(greedy(encoding, mix, 1.0)) for mix in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(0.99 < load <= 1.0 for load in loads)
