"""Packed integers come back as they were, in as many bytes as they need."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spaces.quantization.format import Format, QParams
from spaces.quantization.layers import quantized_layer
from spaces.quantization.stored_weight import StoredWeight, pack_integers, packed_bytes, unpack_integers


@given(st.integers(1, 8), st.data())
@settings(deadline=None, max_examples=80)
def test_what_is_packed_is_unpacked(bits: int, data: st.DataObject) -> None:
    target = Format(bits, signed=True)
    low, high = target.low, target.high
    legal = st.sampled_from([-1, 1]) if bits == 1 else st.integers(low, high)
    numbers = torch.tensor(data.draw(st.lists(legal, max_size=40)), dtype=torch.int32)
    packed = pack_integers(numbers, bits)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(len(numbers), bits) == (len(numbers) * bits + 7) // 8
    assert torch.equal(unpack_integers(packed, bits, len(numbers)), numbers)


def test_bits_lie_lowest_first_without_a_gap() -> None:
    assert pack_integers(torch.tensor([1, -1, 0, -2, 1]), 2).tolist() == [0b10_00_11_01, 0b01]
    assert pack_integers(torch.tensor([3, -4, 1]), 3).tolist() == [0b01_100_011, 0b0]
    assert pack_integers(torch.tensor([1, -1, -1, 1, -1]), 1).tolist() == [0b10110]


def test_too_large_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="expected integers of 2 bits, -2 to 1; got 0 to 2"):
        pack_integers(torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="expected integers of 1 bit, -1 or 1; got 0"):
        pack_integers(torch.tensor([1, 0]), 1)


def test_values_follow_what_is_loaded_later_and_are_not_copied_along() -> None:
    stored = StoredWeight((2, 3), bits=4, axis=0)
    assert not stored().any()
    integers = torch.tensor([[1, -2, 3], [7, -8, 0]])
    other = StoredWeight((2, 3), bits=4, axis=0)
    other.load_state_dict({"packed": pack_integers(integers, 4), "scale": torch.tensor([0.5, 2.0])})
    stored.load_state_dict(other.state_dict())
    expected = torch.tensor([[0.5, -1.0, 1.5], [14.0, -16.0, 0.0]])
    assert torch.equal(stored(), expected)
    assert torch.equal(copy.deepcopy(stored).double()(), expected.double())
    assert torch.equal(stored.integers(), integers.to(torch.int32))


def test_a_bias_is_what_integer_kernels_hold_and_its_gradient_passes() -> None:
    torch.manual_seed(0)
    layer = quantized_layer(nn.Conv2d(3, 4, 3), 4, 8, learned=True)
    assert layer.weight_quantizer is not None
    step = QParams(torch.full((4,), 0.02), torch.zeros(4, dtype=torch.int32))
    layer.weight_quantizer.calibrate({4: step})
    layer.input_quantizer.calibrate({8: QParams(torch.tensor([0.05]), torch.zeros(1, dtype=torch.int32))})
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.00149, -0.0005, 1.2345, 3e7]))
    held = layer.quantized_bias()
    assert torch.equal(held[:3].detach(), torch.tensor([1.0, 0.0, 1234.0]) * (torch.tensor(0.05) * torch.tensor(0.02)))
    assert held[3] == 3e7  # beyond 32 bits
    held.sum().backward()
    assert torch.equal(layer.bias.grad, torch.ones(4))
    layer.input_quantizer = None
    assert layer.quantized_bias() is layer.bias
