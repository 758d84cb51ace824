"""CN113011565A: connected activations merged pairwise, in order, against the two-case rule and the patent's types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spaces.fusion.float_format import FLOAT64
from spaces.fusion.piecewise_linear import fold_chain, leaky_relu, merge, prelu, relu

CHAINS = [leaky_relu(0.2), prelu([0.25, 0.5]), relu(), leaky_relu(-0.3), prelu([-0.5, 2.0])]


def slopes(activation: object) -> np.ndarray:
    return np.broadcast_to(np.asarray(activation.slope, dtype=np.float64), (2,))


@pytest.mark.parametrize(("first", "second"), list(itertools.product(CHAINS, CHAINS)))
def test_two_are_one_with_the_product_of_their_slopes(first, second) -> None:
    one, two = slopes(first), slopes(second)
    expected = np.where(one >= 0.0, one * two, one)
    merged = merge(first, second, FLOAT64, literal=True).activation
    assert np.allclose(slopes(merged), expected, rtol=1e-15, atol=0.0)
    assert merged.kind == (first.kind if first.kind == second.kind else "PReLU")


@pytest.mark.parametrize("chain", list(itertools.permutations(CHAINS, 3))[::7])
def test_a_chain_is_merged_pairwise_in_order_and_answers_the_same(chain) -> None:
    runs, reasons = fold_chain(chain, FLOAT64, literal=True)
    assert len(runs) == 1
    assert not reasons
    inputs = np.linspace(-3.0, 3.0, 50)[:, None] * np.ones(2)
    expected = inputs
    for one in chain:
        expected = np.where(expected >= 0.0, expected, slopes(one) * expected)
    found = np.where(inputs >= 0.0, inputs, slopes(runs[0].activation) * inputs)
    assert np.allclose(found, expected, rtol=1e-14, atol=1e-15)
