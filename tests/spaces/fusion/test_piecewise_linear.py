"""The algebra against direct evaluation: every rule, infinities, zeros, tiny slopes, NaN, and the wrong product rule."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from spaces.fusion.float_format import FLOAT16, FLOAT32
from spaces.fusion.nodes import float_format
from spaces.fusion.piecewise_linear import (
    Activation,
    NotMergeableError,
    clip,
    fold_chain,
    identity,
    leaky_relu,
    merge,
    prelu,
    relu,
)

FLOAT = torch.float32
TINY = float(np.finfo(np.float32).tiny)
CHANNELS = 3


def direct(activation: Activation, inputs: Tensor) -> Tensor:
    """Apply an activation as PyTorch does, to inputs of shape ``(N, CHANNELS)``."""
    if activation.kind == "ReLU":
        return F.relu(inputs)
    if activation.kind == "LeakyReLU":
        return F.leaky_relu(inputs, float(activation.slope))
    if activation.kind == "PReLU":
        return F.prelu(inputs, torch.from_numpy(activation.slope.reshape(-1)).to(inputs.dtype))
    return F.hardtanh(inputs, activation.low, activation.high) if activation.kind == "Clip" else inputs


def one(first: Activation, second: Activation, dtype: torch.dtype = FLOAT, literal: bool = False) -> Activation:
    return merge(first, second, float_format(dtype), literal).activation


@pytest.mark.parametrize(
    ("first", "second", "slope"),
    [
        (0.5, 0.25, 0.125),
        (0.5, -0.25, -0.125),
        (-0.5, 0.25, -0.5),
        (-0.5, -0.25, -0.5),
        (-0.5, 0.0, -0.5),
        (0.0, 0.25, 0.0),
        (0.0, -0.25, 0.0),
        (-0.0, 3.0, 0.0),
        (2.0, 4.0, 8.0),
        (-0.5, 1.0, -0.5),
        (-0.5, 1e-40, -0.5),
    ],
)
def test_the_two_cases(first: float, second: float, slope: float) -> None:
    merged = one(leaky_relu(first), leaky_relu(second), literal=True)
    assert merged.kind == "LeakyReLU"
    assert float(merged.slope) == slope
    inputs = torch.tensor([[-3.0, 0.0, 5.0]])
    expected = F.leaky_relu(F.leaky_relu(inputs, first), second)
    assert torch.equal(direct(merged, inputs), expected)
    if first < 0 and second != 1.0:
        plain = F.leaky_relu(inputs, first * second)
        assert not torch.equal(plain, expected), "the plain product of slopes must be told apart"


def test_slopes_per_channel_follow_the_rule_one_by_one() -> None:
    merged = one(prelu([0.5, -0.5, 0.0]), prelu([0.5, 0.5, 0.5]))
    assert merged.kind == "PReLU"
    assert merged.slope.tolist() == [0.25, -0.5, 0.0]
    assert one(prelu([0.5]), prelu([1.0, 2.0, -1.0])).slope.tolist() == [0.5, 1.0, -0.5]
    assert one(prelu(np.full((4, 1, 1), 0.5)), prelu(np.full((1, 5), 2.0))).kind == "Identity"
    assert one(prelu(np.full((4, 1, 1), 0.5)), prelu(np.full((1, 5), 3.0))).slope.shape == (4, 1, 5)


def test_types() -> None:
    leaky, some = leaky_relu(0.5), prelu([0.5, 0.25])
    assert one(relu(), relu()).kind == "ReLU"
    assert one(leaky, leaky).kind == "LeakyReLU"
    assert one(some, some).kind == "PReLU"
    assert one(leaky, some).kind == one(some, leaky).kind == "PReLU"
    assert one(leaky_relu(-0.5), relu()).kind == "PReLU"
    for first, second in ((relu(), leaky), (leaky, relu()), (relu(), some), (some, relu())):
        assert one(first, second).kind == "ReLU"
        literal = one(first, second, literal=True)
        assert literal.kind == "PReLU"
        assert not literal.slope.any()
    assert one(leaky_relu(0.0), leaky).kind == "ReLU"
    assert one(leaky_relu(0.0), leaky, literal=True).kind == "LeakyReLU"
    assert one(leaky, leaky_relu(2.0)).kind == "Identity"
    assert one(leaky, leaky_relu(2.0), literal=True).kind == "LeakyReLU"
    assert one(some, identity()) is some
    assert one(identity(), some) is some


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (clip(0, 6), clip(0, 6), (0, 6)),
        (clip(-1, 1), clip(0, 6), (0, 1)),
        (relu(), clip(0, 6), (0, 6)),
        (clip(0, 6), relu(), (0, 6)),
        (clip(-2, 3), relu(), (0, 3)),
        (clip(-2, inf), relu(), (0, inf)),
        (clip(-inf, 3), clip(-2, inf), (-2, 3)),
        (clip(0, 6), leaky_relu(-0.3), (0, 6)),
        (clip(1, 6), prelu([0.1, 2.0, -1.0]), (1, 6)),
        (leaky_relu(0.3), clip(0, 6), (0, 6)),
        (leaky_relu(1e-40), clip(2, 6), (2, 6)),
        (prelu([0.1, 0.0, 2.0]), clip(0, 6), (0, 6)),
        (clip(-1, 1), leaky_relu(0.0), (0, 1)),
        (leaky_relu(0.0), clip(-1, 1), (0, 1)),
    ],
)
def test_clamps(first: Activation, second: Activation, expected: tuple[float, float]) -> None:
    merged = merge(first, second, FLOAT32)
    assert (merged.activation.low, merged.activation.high) == expected
    assert merged.exact
    assert merged.activation.kind == ("ReLU" if expected == (0, inf) else "Clip")
    inputs = torch.tensor([-7.0, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5, 5.0, 9.0, inf]).repeat(CHANNELS, 1).T
    assert torch.equal(direct(merged.activation, inputs), direct(second, direct(first, inputs)))


def test_a_negative_slope_leaves_nothing_for_a_lower_bound_to_change() -> None:
    assert one(leaky_relu(-0.5), clip(-1, inf)).slope == -0.5
    with pytest.raises(NotMergeableError, match="bends"):
        merge(leaky_relu(-0.5), clip(1, inf), FLOAT32)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (leaky_relu(1e-30), leaky_relu(1e-30), "normal numbers of float32"),
        (leaky_relu(1e30), leaky_relu(1e30), "normal numbers of float32"),
        (leaky_relu(1e-40), leaky_relu(1e10), "normal numbers of float32"),
        (prelu([0.5, 1e-30]), leaky_relu(1e-30), "1e-30 times 1e-30"),
        (prelu([-0.5, 0.5]), relu(), "NaN at minus infinity"),
        (clip(-1, 1), leaky_relu(0.1), "bends"),
        (leaky_relu(0.1), clip(-1, 1), "bends"),
        (leaky_relu(-0.1), clip(0, 6), "bends"),
        (clip(0, 1), clip(2, 3), "at most one number"),
        (prelu([1.0, 2.0, 3.0]), prelu([1.0, 2.0]), "do not fit"),
        (prelu(np.ones((400, 1))), prelu(np.ones((1, 400))), "would become 160000"),
        (prelu(np.ones((8, 1))), prelu(np.ones((1, 8))), "would become 64 numbers, more than both and a node take"),
    ],
)
def test_what_is_not_merged(first: Activation, second: Activation, message: str) -> None:
    with pytest.raises(NotMergeableError, match=message):
        merge(first, second, FLOAT32)


def test_the_limits_are_those_of_the_tensors_type() -> None:
    pair = leaky_relu(0.001), leaky_relu(0.001)
    assert float(one(*pair, torch.float32).slope) == pytest.approx(1e-6)
    with pytest.raises(NotMergeableError, match="float16"):
        merge(*pair, FLOAT16)
    tiny = leaky_relu(1e-30), leaky_relu(1e-30)
    assert float(one(*tiny, torch.float64).slope) == pytest.approx(1e-60)
    assert float(one(leaky_relu(TINY * 2), leaky_relu(0.5)).slope) == TINY
    with pytest.raises(NotMergeableError):
        merge(leaky_relu(TINY), leaky_relu(0.5), FLOAT32)


def test_mixed_zeros_may_stay_a_prelu_where_the_type_is_asked_for() -> None:
    assert one(prelu([-0.5, 0.5]), relu(), literal=True).slope.tolist() == [-0.5, 0.0]


def test_what_is_no_number_is_refused() -> None:
    for make in (
        lambda: leaky_relu(inf),
        lambda: prelu([0.1, nan]),
        lambda: prelu([]),
        lambda: clip(2, 1),
        lambda: clip(nan, 1),
    ):
        with pytest.raises(NotMergeableError):
            make()


def test_products_are_told_from_exact_merges() -> None:
    assert not merge(leaky_relu(0.3), leaky_relu(0.3), FLOAT32).exact
    assert merge(leaky_relu(-0.3), leaky_relu(0.3), FLOAT32).exact
    assert merge(leaky_relu(0.3), relu(), FLOAT32).exact
    assert merge(leaky_relu(0.3), leaky_relu(1.0), FLOAT32).exact
    # The slope of a LeakyReLU has single precision in half-precision tensors, that of a PReLU has not.
    assert not merge(leaky_relu(-0.3), relu(), FLOAT16).exact


def test_a_chain_is_folded_from_the_left_and_to_the_end() -> None:
    runs, reasons = fold_chain([leaky_relu(1e-30), leaky_relu(1e-30), relu(), clip(-1, 1), leaky_relu(0.1)], FLOAT32)
    assert [(run.start, run.stop, run.activation.text) for run in runs] == [(0, 5, "Clip 0 to 1")]
    assert not reasons
    runs, reasons = fold_chain([clip(-1, 1), leaky_relu(0.1), leaky_relu(0.5)], FLOAT32)
    assert [(run.start, run.stop) for run in runs] == [(0, 1), (1, 3)]
    assert set(reasons) == {(0, 1)}
    runs, _ = fold_chain([relu()] * 5, FLOAT32)
    assert len(runs) == 1


def test_what_a_caller_does_not_admit_stays_apart() -> None:
    runs, reasons = fold_chain([relu(), relu(), relu()], FLOAT32, admissible=lambda run: "no" if run.stop == 2 else None)
    assert [(run.start, run.stop) for run in runs] == [(0, 3)]
    runs, reasons = fold_chain([relu(), relu()], FLOAT32, admissible=lambda run: "no")
    assert len(runs) == 2
    assert reasons == {(0, 1): "no"}


SLOPES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.25, -0.25, 1e-20, -1e-20, 1e-38, 1e-40, 1e20, TINY]),
    st.floats(-4, 4, width=32),
)
BOUNDS = st.one_of(st.sampled_from([0.0, 6.0, -1.0, 1.0, -inf, inf]), st.floats(-8, 8, width=32))
PLAIN = st.one_of(
    st.just(relu()),
    st.just(identity()),
    SLOPES.map(leaky_relu),
    SLOPES.map(lambda slope: prelu([slope])),
    st.lists(SLOPES, min_size=CHANNELS, max_size=CHANNELS).map(prelu),
    st.tuples(BOUNDS, BOUNDS).filter(lambda bounds: bounds[0] < bounds[1]).map(lambda bounds: clip(*bounds)),
)
INPUTS = st.one_of(
    st.sampled_from([0.0, -0.0, inf, -inf, nan, 1.0, -1.0, 1e-40, -1e-40, 3e38, -3e38]),
    st.floats(-100, 100, width=32),
)


def within(values: Tensor) -> Tensor:
    """Which values are normal numbers, zero or infinite, so that what is computed from them is right to rounding."""
    return (values == 0) | values.isinf() | (values.abs() >= TINY)


CHAINS = st.lists(PLAIN, min_size=2, max_size=6)
ROWS = st.lists(INPUTS, min_size=8, max_size=8)


@settings(max_examples=100, deadline=None)
@given(CHAINS, ROWS, st.booleans())
def test_random_chains(chain: list[Activation], values: list[float], literal: bool) -> None:
    check_chain(chain, values, literal)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=3000, deadline=None)
@given(CHAINS, ROWS, st.booleans())
def test_many_random_chains(chain: list[Activation], values: list[float], literal: bool) -> None:
    check_chain(chain, values, literal)


def check_chain(chain: list[Activation], values: list[float], literal: bool) -> None:
    inputs = torch.tensor(values, dtype=FLOAT).repeat(CHANNELS, 1).T.contiguous()
    runs, _ = fold_chain(chain, FLOAT32, literal)
    assert [index for run in runs for index in run.members] == list(range(len(chain)))
    again, _ = fold_chain([run.activation for run in runs], FLOAT32, literal)
    assert len(again) == len(runs), "a second pass found something"
    for run in runs:
        expected, safe, limit = inputs, torch.ones_like(inputs, dtype=torch.bool), inputs
        for index in run.members:
            # What over- or underflows on the way may differ; so may the sign of a zero, and 0 times infinity (see the module).
            before = expected
            expected = direct(chain[index], expected)
            limit = direct(chain[index], limit)
            limit = torch.where(limit.isnan() & ~inputs.isnan(), 0.0, limit)
            overflow = before.isfinite() & expected.isinf()
            vanished = (before != 0) & (expected == 0) & (chain[index].kind in ("LeakyReLU", "PReLU"))
            safe &= within(expected) & ~overflow & ~(vanished & (direct_slope(chain[index], before) != 0))
        merged = direct(run.activation, inputs)
        made_nan = expected.isnan() & ~inputs.isnan()
        assert torch.equal(merged.isnan() & inputs.isnan(), inputs.isnan())
        plain = ~made_nan & ~inputs.isnan()
        if not literal:
            assert not (merged.isnan() & plain).any()
        assert ((merged == limit) | merged.isnan())[made_nan & inputs.isinf()].all()
        compared = plain & ~merged.isnan()
        if run.exact:
            assert torch.equal(merged[compared & safe], expected[compared & safe])
        torch.testing.assert_close(merged[compared & safe], expected[compared & safe], rtol=1e-6, atol=0)


def direct_slope(activation: Activation, inputs: Tensor) -> Tensor:
    """Return the slope that every element of ``inputs`` meets."""
    slopes = torch.from_numpy(np.broadcast_to(activation.slope.reshape(-1), (CHANNELS,)).copy()).to(FLOAT)
    return torch.where(inputs < 0, slopes.expand_as(inputs), torch.ones_like(inputs))


@settings(max_examples=100, deadline=None)
@given(st.lists(PLAIN, min_size=3, max_size=3), st.lists(INPUTS, min_size=4, max_size=4))
def test_evaluation_without_torch_is_the_same(chain: list[Activation], values: list[float]) -> None:
    inputs = torch.tensor(values, dtype=FLOAT).repeat(CHANNELS, 1).T.contiguous()
    for activation in chain:
        found = torch.from_numpy(np.array(activation(inputs.numpy())))
        torch.testing.assert_close(found, direct(activation, inputs), rtol=0, atol=0, equal_nan=True)
