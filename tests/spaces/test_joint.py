"""The joint space: a small network with few bits, its costs, and what it is compared with."""

from __future__ import annotations

import copy
import functools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evaluators.cost import count_costs
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.errors import InvalidCandidateError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.layers.batch_norm import measure_statistics
from spaces.quantization.cost import average_weight_bits
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.layers import quantized_layers
from spaces.quantization.record import PACK, pack_weights
from spaces.transformation import apply
from tests.spaces.zoo import ZOO, example, network
from tests.variants import few

BITS = BitWidthSettings(weight_bits=(2, 4, 8), activation_bits=(4, 8))
BATCH = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@functools.cache
def joint(name: str) -> tuple[nn.Module, torch.Tensor, Joint]:
    model, inputs = network(name), example(name)
    batches = [BATCH] if inputs.shape[1:] == BATCH.shape[1:] else []
    return model, inputs, Joint(model, inputs, JointSettings(bits=BITS), batches=batches)


def whole(space: Joint, bits: Candidate) -> Candidate:
    return Candidate({**{group.name: "1" * group.size for group in space.groups.groups}, **bits.values})


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(list(ZOO)), st.integers(0, 2**32 - 1))
def test_costs_known_beforehand_are_those_of_the_network_and_of_its_file(name: str, seed: int) -> None:
    model, inputs, space = joint(name)
    candidate = space.sample(np.random.default_rng(seed))
    costs = space.costs(candidate)
    small = space.realize(model, candidate)
    assert average_weight_bits(small) == costs.pop("weight_bits")
    assert count_costs(small, inputs) == costs
    stored = pack_weights(small)
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.state_dict().values()) == costs["size_bytes"]
    assert space.layer_sizes(candidate).weights == {
        name: layer.weight.numel() for name, layer in quantized_layers(small).items()
    }


@pytest.mark.parametrize("name", few(ZOO, 4))
def test_the_small_network_is_the_masked_one_and_its_stored_form_answers_alike(name: str) -> None:
    model, inputs, space = joint(name)
    rng = np.random.default_rng(1)
    for _ in range(2):
        candidate = space.sample(rng)
        assert space.check(model, candidate) <= 1e-6
        small = space.realize(model, candidate)
        rebuilt = apply(copy.deepcopy(model), json.loads(json.dumps(space.transformation(candidate))))
        rebuilt = apply(rebuilt, PACK)
        rebuilt.load_state_dict(pack_weights(small).state_dict())
        with torch.no_grad():
            torch.testing.assert_close(rebuilt.eval()(inputs), small(inputs), atol=1e-6, rtol=1e-5)
        for point in space.quantizers:
            quantizer = small.get_submodule(point.path)
            assert isinstance(quantizer, Quantizer)
            assert quantizer.bits == candidate.values[point.decision]


def test_with_every_channel_kept_it_is_the_space_of_bits() -> None:
    model, inputs, space = joint("residual")
    bits = BitWidth(model, inputs, BITS, batches=[BATCH])
    candidate = bits.sample(np.random.default_rng(0))
    assert space.costs(whole(space, candidate)) == bits.costs(candidate)
    with torch.no_grad():
        assert torch.equal(space.realize(model, whole(space, candidate))(BATCH), bits.realize(model, candidate)(BATCH))


def test_statistics_and_ranges_are_those_of_the_small_network() -> None:
    """With 8 bits it is the sliced network with BatchNorm measured again, up to rounding, and not with the old statistics."""
    model, _, space = joint("residual")
    masks = {group.name: "1" * (group.size - 3) + "000" for group in space.groups.groups}
    bits = {name: max(domain.options) for name, domain in space.domains.items() if name not in masks}
    candidate = Candidate({**masks, **bits})
    small = space.realize(model, candidate)
    sliced = ChannelMask(model, example("residual"), batches=[BATCH]).realize(model, Candidate(masks))
    with torch.no_grad():
        before = sliced(BATCH)
        measure_statistics(sliced, [BATCH], call)
        after = sliced(BATCH)
        found = small(BATCH)
    assert float((found - after).abs().mean()) < 0.1 * float((found - before).abs().mean())


def test_a_prepared_network_is_small_and_trains() -> None:
    model, _, space = joint("residual")
    candidate = space.cheapest()
    prepared = space.prepare(model, candidate).train()
    prepared(BATCH).square().sum().backward()
    for name, parameter in prepared.named_parameters():
        assert parameter.grad is not None, name
    assert sum(p.numel() for p in prepared.parameters()) < sum(p.numel() for p in model.parameters()) / 2
    assert space.check_prepared(prepared.eval()) <= 1e-6


def test_a_person_reads_shares_and_bits_and_what_is_wrong_with_a_candidate() -> None:
    model, _, space = joint("plain")
    candidate = space.sample(np.random.default_rng(0))
    described = space.describe(candidate)
    assert list(described) == list(space.domains)
    assert 0.0 < float(described["first.0"]) <= 1.0
    assert described["hidden.weight"] == candidate.values["hidden.weight"]
    with pytest.raises(InvalidCandidateError, match=r"decision 'hidden.weight'"):
        space.validate(Candidate({**candidate.values, "hidden.weight": 5}))
    with pytest.raises(InvalidCandidateError, match=r"decision 'first.0' is missing"):
        space.realize(model, Candidate({k: v for k, v in candidate.values.items() if k != "first.0"}))


class ByMacs:
    """A layer takes as many milliseconds as it has channels and bits multiplied."""

    fixed = 1.0

    def of(self, layer: str, in_channels: int, out_channels: int, weight_bits: int, input_bits: int) -> float:
        return float(in_channels * out_channels * weight_bits * input_bits)


def test_latency_is_that_of_the_channels_and_bits_that_are_left() -> None:
    model, inputs = network("residual"), example("residual")
    space = Joint(model, inputs, JointSettings(bits=BITS))
    assert space.open_layers()
    layers = space.open_layers()
    assert layers["inner.0"].inputs
    assert layers["inner.0"].outputs
    assert (2, 4) in layers["inner.0"].bits
    full = whole(space, Candidate({p.decision: 8 for p in space.quantizers}))
    assert "latency_ms" not in space.costs(full)
    space.use_latency(ByMacs())
    before = space.costs(full)["latency_ms"]
    fewer = Candidate({**full.values, "inner.0": "111000", "inner.0.weight": 2})
    loads = space.latency_terms(fewer)
    assert loads["inner.0"] == (8, 3, 2, 8)
    assert loads["outer.0"] == (3, 8, 8, 8)
    assert before - space.costs(fewer)["latency_ms"] == 64 * (8 * 6 + 6 * 8) - (8 * 3 * 16 + 3 * 8 * 64)


def test_nothing_to_prune_or_to_quantize_is_an_error() -> None:
    model, inputs = network("plain"), example("plain")
    with pytest.raises(UnsupportedModelError, match="can be pruned"):
        Joint(model, inputs, JointSettings(channels=ChannelMaskSettings(exclude=("*",))))
    with pytest.raises(UnsupportedModelError, match="can be quantized"):
        Joint(model, inputs, JointSettings(bits=BitWidthSettings(exclude=("*",))))
