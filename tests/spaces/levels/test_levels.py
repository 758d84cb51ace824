"""Levels: nested keep-masks at evenly spread counts, numbers in order, and levels that a space names itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.domains import Choice, Mask, Real
from spaces.errors import SecateursError
from spaces.filter_ratio import FilterRatio
from spaces.filter_ratio_settings import FilterRatioSettings
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.levels.levels import NoLevelsError, levels_of, spread_counts
from spaces.levels.settings import LevelSettings
from tests.spaces.zoo import example, network

BITS = BitWidthSettings(weight_bits=(2, 4, 8), activation_bits=(4, 8))


def test_levels_by_hand() -> None:
    domains = {"conv": Mask(6, minimum=2, multiple=2), "conv.weight": Choice((8, 2, 4))}
    importance = {"conv": np.array([0.1, 0.9, 0.5, 0.5, 0.2, 0.0])}
    levels = levels_of(domains, None, importance, 16)
    assert levels == {"conv": ("011000", "011110", "111111"), "conv.weight": (2, 4, 8)}
    assert levels_of(domains, None, importance, 2)["conv"] == ("011000", "111111")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 9), st.integers(2, 20), st.integers(0, 99))
def test_keep_masks_are_legal_nested_and_go_from_the_fewest_channels_to_all(
    length: int, minimum: int, multiple: int, steps: int, seed: int
) -> None:
    domain = Mask(length, min(length, minimum), multiple)
    scores = np.random.default_rng(seed).integers(0, 5, length).astype(float)
    (levels,) = levels_of({"group": domain}, None, {"group": scores}, steps).values()
    assert all(domain.contains(level) for level in levels)
    masks = [np.frombuffer(str(level).encode(), np.uint8) == ord("1") for level in levels]
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(set(counts))
    assert (counts[0], counts[-1], len(counts) <= steps) == (domain.legal_counts()[0], length, True)
    assert all((low <= high).all() for low, high in itertools.pairwise(masks))
    assert all(scores[mask].min() >= scores[~mask].max() for mask in masks[:-1])


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.integers(2, 40))
def test_counts_are_spread_evenly(most: int, steps: int) -> None:
    counts = spread_counts(range(1, most + 1), steps)
    assert len(counts) == min(steps, most)
    gaps = np.diff(counts)
    assert gaps.max() - gaps.min() <= 1


def test_spaces_have_levels_of_every_decision_by_one_method() -> None:
    model, inputs = network("plain"), example("plain")
    few = ChannelMaskSettings(levels=LevelSettings(steps=3))
    masks = ChannelMask(model, inputs, few)
    bits = BitWidth(model, inputs, BITS)
    both = Joint(model, inputs, JointSettings(channels=few, bits=BITS))
    ratios = FilterRatio(model, inputs, FilterRatioSettings(importance="l2"))
    importance = {name: np.arange(domain.length, dtype=float) for name, domain in masks.domains.items()}
    assert both.leveled(importance) == {**masks.leveled(importance), **bits.leveled({})}
    assert {len(levels) for levels in masks.leveled(importance).values()} == {3}
    assert ratios.leveled({}) == ratios.levels


@pytest.mark.parametrize("domain", [Choice(("l1", "l2")), Real(0.0, 1.0)])
def test_a_decision_without_levels_is_refused_by_name(domain: Choice | Real) -> None:
    with pytest.raises(NoLevelsError, match=f"'draw' is of type {type(domain).__name__}"):
        levels_of({"draw": domain}, None, {}, 16)


@pytest.mark.parametrize(("table", "message"), [({}, "found none"), ({"conv": np.ones(2)}, "expected 3 finite values")])
def test_keep_masks_need_the_importance_of_every_channel(table: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(SecateursError, match=message):
        levels_of({"conv": Mask(3)}, None, table, 16)


@pytest.mark.parametrize("given", [{"steps": 1}, {"images": 1}])
def test_options_out_of_range_are_named(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        LevelSettings(**given)
