"""Fake quantization against its formula, PyTorch's operators and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spaces.quantization.calibration import ActivationSample, Calibration, affine_qparams
from spaces.quantization.fake_quantize import Quantizer, StoredQuantizer
from spaces.quantization.format import Format, QParams

VALUES = arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32))
BITS = st.integers(2, 8)


def step(scale: float, zero_point: int = 0) -> QParams:
    return QParams(torch.tensor([scale]), torch.tensor([zero_point], dtype=torch.int32))


@given(VALUES, BITS, st.floats(1e-3, 10), st.booleans(), st.data())
@settings(deadline=None, max_examples=60)
def test_integers_are_within_their_bits_and_stand_for_the_quantized_values(
    values: np.ndarray, bits: int, scale: float, signed: bool, data: st.DataObject
) -> None:
    target = Format(bits, signed)
    low, high = target.low, target.high
    assert high - low == 2**bits - 1
    one = step(scale, 0 if signed else data.draw(st.integers(low, high)))
    tensor = torch.from_numpy(values)
    integers = target.quantize(tensor, one)
    assert low <= int(integers.min())
    assert int(integers.max()) <= high
    quantized = target.fake_quantize(tensor, one)
    assert torch.equal(target.dequantize(integers, one), quantized)
    inside = (integers > low) & (integers < high)
    assert bool(((tensor - quantized).abs()[inside] <= 0.5001 * one.scale + 1e-4).all())
    assert torch.equal(target.fake_quantize(quantized, one), quantized)


@given(VALUES, BITS, st.floats(1e-2, 10))
@settings(deadline=None, max_examples=40)
def test_in_training_it_does_what_the_operator_does(values: np.ndarray, bits: int, scale: float) -> None:
    for axis, channels in ((None, 1), (0, 3)):
        target = Format(bits, signed=axis is not None, axis=axis)
        quantizer = Quantizer(target, channels)
        scales = torch.full((channels,), scale) * torch.linspace(1, 2, channels)
        zero_point = torch.zeros(channels, dtype=torch.int32) if axis is not None else torch.ones(1, dtype=torch.int32)
        quantizer.calibrate({bits: QParams(scales, zero_point)})
        ours, theirs = (torch.from_numpy(values).requires_grad_() for _ in range(2))
        found = quantizer(ours)
        expected = target.fake_quantize(theirs, quantizer.qparams)
        assert torch.equal(found, expected)
        weights = torch.arange(24.0).reshape(3, 8)
        if axis is None:
            # Half a step outside the range, gradients pass or not, and nobody can tell.
            edges = (torch.tensor([target.low, target.high]) - 1.0 + torch.tensor([-0.5, 0.5])) * scale
            assume(not np.isclose(values[..., None], edges.numpy(), rtol=1e-5, atol=1e-6).any())
        (found * weights).sum().backward()
        (expected * weights).sum().backward()
        assert ours.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
        with torch.no_grad():
            assert torch.equal(quantizer(torch.from_numpy(values)), found)


def test_the_gradient_of_a_learned_step_is_that_of_lsq() -> None:
    quantizer = Quantizer(Format(3, signed=True, axis=0), channels=2, learned=True)
    quantizer.calibrate({3: QParams(torch.tensor([0.5, 0.1]), torch.zeros(2, dtype=torch.int32))})
    values = torch.tensor([[0.6, -0.2, 9.0, -9.0], [0.04, 0.26, -0.33, 0.0]])
    quantizer(values).sum().backward()
    # Inside: round(v / s) - v / s; above: the largest integer, 3; below: the smallest, -4. Over sqrt(elements * 3).
    expected = [(1 - 1.2) + (0 + 0.4) + 3 - 4, (0 - 0.4) + (3 - 2.6) + (-3 + 3.3) + 0]
    assert quantizer.scale.grad is not None
    torch.testing.assert_close(quantizer.scale.grad, torch.tensor(expected) / math.sqrt(4 * 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_learned_scale_has_that_gradient_too_in_every_layout(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn((2, 3, 4, 5), generator=generator) * 3).to(dtype)
    weights = torch.randn((2, 3, 4, 5), generator=generator).to(dtype)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        quantizer = Quantizer(Format(4, signed=False), learned=True)
        quantizer.calibrate({4: QParams(torch.tensor([0.4]), torch.tensor([5], dtype=torch.int32))})
        moved = values.clone().to(memory_format=layout).requires_grad_()
        (quantizer(moved) * weights).sum().backward()
        exact = values.double() / 0.4
        rounded = exact.round()
        inside = (rounded >= -5) & (rounded <= 10)
        slope = torch.where(inside, rounded - exact, rounded.clamp(-5, 10)) * weights.double()
        expected = slope.sum() / math.sqrt(120 * 15)
        assert quantizer.scale.grad is not None
        found.append(quantizer.scale.grad.double())
        torch.testing.assert_close(found[-1][0], expected, rtol=1e-5 if dtype != torch.bfloat16 else 0.1, atol=0.05)
        assert torch.equal(moved.grad, torch.where(inside, weights, 0))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.01)


def test_a_step_pushed_below_zero_is_used_by_its_size() -> None:
    quantizer = Quantizer(Format(4, signed=True), learned=True)
    with torch.no_grad():
        quantizer.scale.fill_(-0.5)
    assert torch.equal(quantizer(torch.tensor([1.1, -0.6])), torch.tensor([1.0, -0.5]))


def test_switched_off_it_does_nothing_and_in_bfloat16_it_keeps_the_type() -> None:
    quantizer = Quantizer(Format(2, signed=False))
    values = torch.randn(5, generator=torch.Generator().manual_seed(0))
    quantizer.enabled = False
    assert quantizer(values) is values
    quantizer.enabled = True
    half = values.bfloat16().requires_grad_()
    assert quantizer(half).dtype == torch.bfloat16


@given(VALUES, BITS)
@settings(deadline=None, max_examples=30)
def test_the_stored_form_answers_alike_in_both_precisions(values: np.ndarray, bits: int) -> None:
    quantizer = Quantizer(Format(bits, signed=False))
    quantizer.calibrate({bits: affine_qparams(-1.5, 30.0, 2**bits - 1, torch.device("cpu"))})
    stored, tensor = StoredQuantizer.of(quantizer), torch.from_numpy(values)
    with torch.no_grad():
        assert torch.equal(stored(tensor), quantizer(tensor))
        assert torch.equal(stored(tensor.double()).float(), quantizer(tensor))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_calibration_beats_the_whole_range_and_every_nearby_scale(bits: int) -> None:
    weight = torch.randn(4, 300, generator=torch.Generator().manual_seed(bits))
    found = Calibration().weight_qparams(weight, 0, [bits])[bits]

    def error(scale: torch.Tensor) -> torch.Tensor:
        one = QParams(scale, torch.zeros(4, dtype=torch.int32))
        return (Format(bits, signed=True, axis=0).fake_quantize(weight, one) - weight).square().sum(1)

    whole = weight.abs().amax(1) / Format(bits, signed=True).high
    assert bool((error(found.scale) <= error(whole)).all())
    for factor in (0.8, 0.9, 1.1, 1.2):
        assert bool((error(found.scale) <= error(found.scale * factor) * 1.001).all())


def test_activations_without_values_below_zero_have_no_zero_point() -> None:
    seen = ActivationSample()
    seen.see(torch.rand(1000, generator=torch.Generator().manual_seed(0)))
    found = Calibration("percentile", 99.0).activation_qparams(seen, [4])[4]
    assert int(found.zero_point) == 0
    assert float(found.scale) * 15 == pytest.approx(0.99, abs=0.02)
    seen.see(-torch.rand(1000, generator=torch.Generator().manual_seed(1)))
    two_sided = Calibration().activation_qparams(seen, [8])[8]
    assert 120 <= int(two_sided.zero_point) <= 136
    assert float(two_sided.scale) * 255 == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("bits", "signed", "fewest"), [(0, True, 1), (9, True, 1), (1, False, 2), (9, False, 2)])
def test_other_bits_are_refused(bits: int, signed: bool, fewest: int) -> None:
    with pytest.raises(ValueError, match=f"bits: expected {fewest} to 8"):
        Format(bits, signed=signed)


@pytest.mark.parametrize("learned", [True, False])
def test_one_bit_is_the_sign_times_the_mean_magnitude_and_gradients_pass_straight_through(learned: bool) -> None:
    weight = torch.tensor([[0.5, -1.5, 0.0, 2.0], [-0.1, 0.3, 0.2, -0.4]], requires_grad=True)
    quantizer = Quantizer(Format(1, signed=True, axis=0), 2, learned)
    quantizer.calibrate(Calibration().weight_qparams(weight, 0, [1]))
    signs = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, -1.0]])
    expected = signs * torch.tensor([[1.0], [0.25]])
    quantized = quantizer(weight)
    assert torch.allclose(quantized, expected)
    with torch.no_grad():
        assert torch.equal(quantizer(weight), quantizer.quantized(weight, 1))
        assert torch.equal(quantizer(weight.double()).float(), quantized)
    slopes = torch.arange(8.0).reshape(2, 4)
    quantized.backward(slopes)
    assert torch.equal(weight.grad, slopes)
    if learned:
        assert torch.allclose(quantizer.scale.grad, (slopes * signs).sum(1) / math.sqrt(4))
